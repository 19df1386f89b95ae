"""The fleet in the catalogue: nodes, what they reported, what ran on them when, what should run."""
