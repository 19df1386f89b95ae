"""Reports of verdicts for people: one file that opens anywhere, drawn from the stored document."""
