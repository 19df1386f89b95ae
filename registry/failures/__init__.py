"""Builds that failed for a cause that trying again does not help: remembered, for a time."""
