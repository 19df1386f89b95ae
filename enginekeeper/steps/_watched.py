"""Runs a step for as long as a file changes: where no pipe leads to whoever asked for it.

`python _watched.py FILE SECONDS STEP JOB RESULT`. Whoever asked writes the file again and again:
the other side is `enginekeeper/toolchains/containers/kubernetes_run.py`. When it has not changed
for so many seconds by the clock of this machine, the one who asked is dead, and everything here
ends.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_LOOKS = 10  # of them in the time after which nobody is believed to be there
_KILLED = 137  # as of what was ended by SIGKILL


def main() -> None:
    """Runs the step that the arguments name."""
    alive, patience, step = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    watcher = threading.Thread(target=_watch, args=(alive, patience), daemon=True)
    watcher.start()
    sys.argv = sys.argv[3:]
    sys.path.insert(0, str(Path(step).parent))
    runpy.run_path(step, run_name="__main__")


def _watch(alive: Path, patience: float) -> None:
    seen, since = _beat(alive), time.monotonic()
    while time.monotonic() - since < patience:
        time.sleep(patience / _LOOKS)
        if (now := _beat(alive)) != seen:
            seen, since = now, time.monotonic()
    with suppress(OSError):  # who read it may be gone as well
        print(f"nobody has waited for this step for {patience:g} s: it ends", flush=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(_KILLED)  # the first process of a container is not killed by its own signals


def _beat(alive: Path) -> bytes | None:
    try:
        return alive.read_bytes()
    except OSError:
        return None  # no sign of life, as one that does not change


if __name__ == "__main__":
    main()
