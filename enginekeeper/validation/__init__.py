"""Is it right? Audits, twins, divergence from the reference, and the verdict."""
