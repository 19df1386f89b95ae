"""A driver change rolled over nodes: what happens next, who is told, and what has to be judged."""
