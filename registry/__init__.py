"""The registry: what engines exist, where their bytes are, and whether they may be deployed."""
