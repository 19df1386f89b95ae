"""Sets how torch's threads wait, before torch is imported.

By default a thread that has finished its part spins until the others have. When another process
holds one of the cores the spinning thread keeps the one it waits for from running: measured on two
cores beside two busy processes, a decode step takes 3.7 s instead of 0.2 s.
"""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"


def wait_without_spinning() -> None:
    """Makes OpenMP threads sleep while they wait, unless the environment says otherwise."""
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
