"""The fault laboratory: known faults put into copies of real checkpoints, and what is seen of them.

It stands outside `validation`, so that a new fault never changes what decides about engines.
"""
