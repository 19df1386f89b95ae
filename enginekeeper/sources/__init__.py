"""Model sources: from what a build spec names to a checked Hugging Face directory on this machine.

- `resolve.resolve_source`: the one entry point, for all four kinds of place;
- `inspection.inspect_model`: checks a directory and names it by the digest of what it holds.
"""
