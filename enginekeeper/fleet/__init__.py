"""What runs where: nodes, devices, and the environment an engine meets on them."""
