"""Toolchains: pinned environments for steps, how they are installed, and how steps are run.

- `catalogue`: which toolchains there are, what each needs and costs;
- `sync`: installs one from its lock file, once per lock;
- `doctor`: looks at this machine and says what is missing;
- `runner`: runs one step as a subprocess and returns its typed result.
"""
