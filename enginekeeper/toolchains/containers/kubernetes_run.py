"""Runs a job's manifest by `kubectl` to its end: a process of its own, ended like any other.

`python -m enginekeeper.toolchains.containers.kubernetes_run MANIFEST SECONDS` creates what the
manifest says, passes the pod's log on, and ends with the status of the pod's container. Whoever
started it deletes the job (`removal`). Where that one was killed:

- standard input closes, as of every child of ours; this process deletes the job then, and ends;
- where this process was killed, too, or the whole machine, nobody writes the file beside the
  manifest any more (`ALIVE`, within every tenth of these seconds): the step in the pod sees that
  and ends itself (`steps/_watched.py`).

The API server may be silent for a while, and a log's stream ends before its container where a
connection breaks or stays idle too long (kubelet: streamingConnectionIdleTimeout). Neither ends a
build of hours: the pod is asked for again, and its log followed on, as long as it runs. A pod that
waits for a GPU, or for the gigabytes of its image, is waited for; the job's own deadline ends that.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from enginekeeper.documents import parse_json

ALIVE = "alive"
"""The file whose changes say that somebody waits for the job."""

_BEATS = 10  # within the seconds after which nobody is believed to be there
_POLL = 2.0  # seconds between two looks at a job whose log has ended
_SILENT = 90  # looks in a row; then nobody knows what became of it
_NEVER_STARTS = frozenset({
    "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName",
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
})  # fmt: skip
"""Why a container waits that most likely waits for ever (kubelet's images/types.go)."""

_REMOVED_WITHIN = 60.0  # seconds
_UNSEEN = timedelta(minutes=2)
"""What may be lost of a log whose stream broke: kubectl notices a dead connection within one."""

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
    over = threading.Event()
    threading.Thread(target=_beat, args=(alive, patience / _BEATS, over), daemon=True).start()
    create = ["kubectl", "create", "--filename", str(manifest), *where]
    if _run(create) != 0:
        return _NOT_KNOWN
    starter = threading.Thread(target=_follow_the_starter, args=(name, where[1], over), daemon=True)
    starter.start()
    log = _Log(name, where)
    log.follow()
    return _status(name, where, log)


class _Log:
    """A pod's log, passed on as far as it could be had."""

    def __init__(self, name: str, where: tuple[str, ...]) -> None:
        self._command = ["kubectl", "logs", f"job/{name}", *where]
        self._seen: datetime | None = None
        self._whole = False

    def follow(self) -> None:
        """Passes the log on until its stream ends."""
        self._pass_on("--follow", "--pod-running-timeout=10m")

    def finish(self) -> None:
        """Passes on what is left of an ended container's log, if its stream broke."""
        if not self._whole:
            self._pass_on()

    def _pass_on(self, *how: str) -> None:
        seen = self._seen
        since = [] if seen is None else [f"--since-time={seen - _UNSEEN:%Y-%m-%dT%H:%M:%SZ}"]
        self._whole = _run([*self._command, *how, *since]) == 0
        if self._whole:
            self._seen = datetime.now(UTC)


def _run(command: list[str]) -> int:
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode


def _beat(alive: Path, period: float, over: threading.Event) -> None:
    number = 0
    while not over.is_set():
        number += 1
        with suppress(OSError):  # a full disk now is none the next time
            alive.write_text(str(number), encoding="utf-8")
        over.wait(period)


def _follow_the_starter(name: str, namespace: str, over: threading.Event) -> None:
    """Deletes the job and ends this process, and what it runs, when its starter is gone.

    The sign of life ends first: where the cluster cannot be asked, the pod ends by itself.
    """
    while os.read(0, 1024):
        pass
    over.set()
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            removal(name, namespace),
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_REMOVED_WITHIN,
        )
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _status(name: str, where: tuple[str, ...], log: _Log) -> int:
    """Waits until the container has ended; follows its log on where that ended before it."""
    query = ["kubectl", "get", "pods", "--selector", f"enginekeeper/job={name}", *where,
             "--output", "json"]  # fmt: skip
    silent = 0
    while silent < _SILENT:
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        pods = _pods(done.stdout) if done.returncode == 0 else None
        if pods is None:
            print(done.stderr, end="", flush=True)  # noqa: T201 - it is this process's log
        elif (status := _ended(pods)) is not None:
            log.finish()
            return status
        silent = 0 if pods is not None and (_runs(pods) or _waits(pods)) else silent + 1
        if pods is not None and _runs(pods):
            log.follow()
        time.sleep(_POLL)
    print(f"nobody knows how the pod of {name} ended", flush=True)  # noqa: T201 - likewise
    return _NOT_KNOWN


def _pods(text: str) -> dict[str, Any] | None:
    """Reads kubectl's answer; None where it is cut short."""
    with suppress(ValueError):
        pods: dict[str, Any] = json.loads(text)
        return pods
    return None


def _runs(pods: dict[str, Any]) -> bool:
    """Says whether the one container is at work."""
    return any("running" in status.get("state", {}) for status in _statuses(pods))


def _waits(pods: dict[str, Any]) -> bool:
    """Says whether the pod may yet start; prints why, where it most likely will not."""
    waiting = [status.get("state", {}).get("waiting", {}) for status in _statuses(pods)]
    for one in waiting:
        if one.get("reason") in _NEVER_STARTS:
            print(f"{one['reason']}: {one.get('message', '')}", flush=True)  # noqa: T201 - its log
            return False
    return any(pod.get("status", {}).get("phase") == "Pending" for pod in pods.get("items", []))


def _statuses(pods: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        status
        for pod in pods.get("items", [])
        for status in pod.get("status", {}).get("containerStatuses", [])
    ]


def _ended(pods: dict[str, Any]) -> int | None:
    """Returns the status of the one container, if it has ended; says why, where it was killed."""
    for status in _statuses(pods):
        ended = status.get("state", {}).get("terminated")
        if ended is not None:
            if ended.get("reason") == "OOMKilled":
                print("Killed", flush=True)  # noqa: T201 - what the taxonomy knows it by
            return int(ended["exitCode"])
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
