"""Waves in the catalogue: a driver change that is rolled over nodes, and where each node is."""
