"""Runs a job's manifest by `kubectl` to its end: a process of its own, ended like any other.

`python -m enginekeeper.toolchains.containers.kubernetes_run MANIFEST` creates what the manifest
says, passes the pod's log on, and ends with the status of the pod's container. Whoever started it
deletes the job (`removal`), also when this process was killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from enginekeeper.documents import parse_json

_POLL = 2.0  # seconds between two looks at a job whose log has ended
_SILENT = 90  # looks; then nobody knows what became of it
_NOT_KNOWN = 125  # as container runtimes end when they could not run the command


def running(manifest: Path) -> tuple[str, ...]:
    """Returns the command that runs a manifest."""
    return (sys.executable, "-m", __name__, str(manifest))


def removal(name: str, namespace: str) -> tuple[str, ...]:
    """Returns the command that removes a job, its pod and its policy, if they are there."""
    return (
        "kubectl", "delete", "job,networkpolicy", name, "--namespace", namespace,
        "--ignore-not-found", "--cascade=foreground", "--wait",
    )  # fmt: skip


def main(manifest: Path) -> int:
    """Runs a manifest; returns the status of the step's container."""
    document = parse_json(manifest.read_bytes(), where=str(manifest))
    meta = next(item for item in document["items"] if item["kind"] == "Job")["metadata"]
    where = ("--namespace", meta["namespace"])
    create = ["kubectl", "create", "--filename", str(manifest), *where]
    if subprocess.run(create, check=False).returncode != 0:
        return _NOT_KNOWN
    job = f"job/{meta['name']}"
    follow = ["kubectl", "logs", "--follow", "--pod-running-timeout=10m", job, *where]
    subprocess.run(follow, check=False)
    return _status(str(meta["name"]), where)


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
    sys.exit(main(Path(sys.argv[1])))
