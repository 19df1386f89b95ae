"""Copies of the catalogue: made while it is used, verified before and after they are put back."""
