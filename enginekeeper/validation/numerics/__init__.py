"""Number formats, the tensors that carry them, and the recipes that make them."""
