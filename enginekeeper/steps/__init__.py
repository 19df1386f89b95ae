"""Step scripts: each runs in a toolchain of its own; nothing here is imported by the core."""
