"""Runs a job's manifest by `kubectl` to its end: a process of its own, ended like any other.

`python -m enginekeeper.toolchains.containers.kubernetes_run MANIFEST SECONDS` creates what the
manifest says, passes the pod's log on, and ends with the status of the pod's container. Whoever
started it deletes the job (`removal`). Where that one was killed:

- standard input closes, as of every child of ours; this process deletes the job then, and ends;
- where this process was killed, too, or the whole machine, nobody writes the file beside the
  manifest any more (`ALIVE`, within every tenth of these seconds): the step in the pod sees that
  and ends itself (`steps/_watched.py`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from enginekeeper.documents import parse_json

ALIVE = "alive"
"""The file whose changes say that somebody waits for the job."""

_BEATS = 10  # within the seconds after which nobody is believed to be there
_POLL = 2.0  # seconds between two looks at a job whose log has ended
_SILENT = 90  # looks; then nobody knows what became of it
_NOT_KNOWN = 125  # as container runtimes end when they could not run the command


def running(manifest: Path, patience: float) -> tuple[str, ...]:
    """Returns the command that runs a manifest."""
    return (sys.executable, "-m", __name__, str(manifest), f"{patience:g}")


def removal(name: str, namespace: str) -> tuple[str, ...]:
    """Returns the command that removes a job, its pod and its policy, if they are there."""
    return (
        "kubectl", "delete", "job,networkpolicy", name, "--namespace", namespace,
        "--ignore-not-found", "--cascade=foreground", "--wait",
    )  # fmt: skip


def main(manifest: Path, patience: float) -> int:
    """Runs a manifest; returns the status of the step's container."""
    document = parse_json(manifest.read_bytes(), where=str(manifest))
    meta = next(item for item in document["items"] if item["kind"] == "Job")["metadata"]
    name, where = str(meta["name"]), ("--namespace", str(meta["namespace"]))
    alive = manifest.with_name(ALIVE)
    alive.write_text("0", encoding="utf-8")  # the pod looks for it as soon as it runs
    threading.Thread(target=_beat, args=(alive, patience / _BEATS), daemon=True).start()
    create = ["kubectl", "create", "--filename", str(manifest), *where]
    if _run(create) != 0:
        return _NOT_KNOWN
    threading.Thread(target=_follow_the_starter, args=(name, where[1]), daemon=True).start()
    job = f"job/{name}"
    _run(["kubectl", "logs", "--follow", "--pod-running-timeout=10m", job, *where])
    return _status(name, where)


def _run(command: list[str]) -> int:
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode


def _beat(alive: Path, period: float) -> None:
    number = 0
    while True:
        number += 1
        with suppress(OSError):  # a full disk now is none the next time
            alive.write_text(str(number), encoding="utf-8")
        time.sleep(period)


def _follow_the_starter(name: str, namespace: str) -> None:
    """Deletes the job and ends this process, and what it runs, when its starter is gone."""
    while os.read(0, 1024):
        pass
    subprocess.run(removal(name, namespace), check=False, stdin=subprocess.DEVNULL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _status(name: str, where: tuple[str, ...]) -> int:
    """Waits until the container has ended; the log may have, before."""
    query = ["kubectl", "get", "pods", "--selector", f"enginekeeper/job={name}", *where,
             "--output", "json"]  # fmt: skip
    for _ in range(_SILENT):
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr, end="", flush=True)  # noqa: T201 - it is this process's log
            return _NOT_KNOWN
        status = _ended(json.loads(done.stdout))
        if status is not None:
            return status
        time.sleep(_POLL)
    print(f"the pod of {name} does not end", flush=True)  # noqa: T201 - likewise
    return _NOT_KNOWN


def _ended(pods: dict[str, Any]) -> int | None:
    """Returns the status of the one container, if it has ended; says why, where it was killed."""
    statuses = [
        status
        for pod in pods.get("items", [])
        for status in pod.get("status", {}).get("containerStatuses", [])
    ]
    for status in statuses:
        ended = status.get("state", {}).get("terminated")
        if ended is not None:
            if ended.get("reason") == "OOMKilled":
                print("Killed", flush=True)  # noqa: T201 - what the taxonomy knows it by
            return int(ended["exitCode"])
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
