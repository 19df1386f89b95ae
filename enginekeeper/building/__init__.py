"""Builders: each makes engines of one kind from a checkpoint."""
