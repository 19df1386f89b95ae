"""Plans variants and runs their stages, each of them once."""
