"""A job in a cluster is waited for through silences, and nobody is held up by a cluster that hangs.

`kubectl` is a script that answers what a test wrote down, in that order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.toolchains.containers import kubernetes_run

_KUBECTL = """#!{python}
import json, sys, time
from pathlib import Path
folder, verb = Path({folder!r}), sys.argv[1]
with (folder / "asked").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
script = folder / (verb + ".json")
answers = json.loads(script.read_text()) if script.is_file() else []
answer = answers.pop(0) if answers else dict()
if script.is_file():
    script.write_text(json.dumps(answers))
time.sleep(answer.get("seconds", 0))
print(answer.get("out", ""))
sys.exit(answer.get("status", 0))
"""

RUNNING: dict[str, Any] = {"state": {"running": {}}}
DONE: dict[str, Any] = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
PULLING: dict[str, Any] = {"state": {"waiting": {"reason": "ContainerCreating"}}}
DOWN: dict[str, Any] = {"status": 1, "out": ""}

Cluster = Callable[..., Path]


def pod(status: dict[str, Any]) -> dict[str, Any]:
    """Returns kubectl's answer for a pod whose container has a status."""
    return {"out": json.dumps({"items": [{"status": {"containerStatuses": [status]}}]})}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Writes a kubectl that answers by verb; returns a job's manifest."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(kubernetes_run, "_POLL", 0.0)
    monkeypatch.setattr(kubernetes_run, "_SILENT", 3)
    monkeypatch.setattr(kubernetes_run, "_follow_the_starter", lambda *_: None)
    tool = tmp_path / "kubectl"
    tool.write_text(_KUBECTL.format(python=sys.executable, folder=str(tmp_path)))
    tool.chmod(0o755)

    def answering(**answers: list[dict[str, Any]]) -> Path:
        for verb, said in answers.items():
            (tmp_path / f"{verb}.json").write_text(json.dumps(said))
        manifest = tmp_path / "manifest.json"
        meta = {"name": "build", "namespace": "builds"}
        manifest.write_text(json.dumps({"items": [{"kind": "Job", "metadata": meta}]}))
        return manifest

    return answering


def asked(manifest: Path, verb: str) -> list[str]:
    """Returns what kubectl was asked for by a verb."""
    lines = (manifest.parent / "asked").read_text().splitlines()
    return [line for line in lines if line.startswith(verb)]


def test_an_api_server_that_is_silent_for_a_while_ends_no_build(cluster: Cluster) -> None:
    manifest = cluster(logs=[DOWN], get=[DOWN, {"out": '{"items": ['}, pod(DONE)])

    assert kubernetes_run.main(manifest, 60.0) == 0
    assert len(asked(manifest, "get")) == 3


def test_a_log_whose_stream_ends_is_followed_on_while_the_pod_runs(cluster: Cluster) -> None:
    running = [pod(RUNNING)] * 5  # more looks than may be silent
    manifest = cluster(get=[*running, pod(DONE)])

    assert kubernetes_run.main(manifest, 60.0) == 0
    first, *others = asked(manifest, "logs")
    assert "--since-time" not in first
    assert len(others) == 5
    assert all("--since-time=2" in line for line in others)


def test_a_pod_that_waits_for_a_gpu_or_its_image_is_waited_for(cluster: Cluster) -> None:
    no_gpu = {"out": json.dumps({"items": [{"status": {"phase": "Pending"}}]})}
    creating = {"phase": "Pending", "containerStatuses": [PULLING]}
    pulling = {"out": json.dumps({"items": [{"status": creating}]})}
    manifest = cluster(logs=[DOWN], get=[no_gpu] * 4 + [pulling] * 4 + [pod(DONE)])

    assert kubernetes_run.main(manifest, 60.0) == 0
    first, last = asked(manifest, "logs")  # it had ended at the next look, and has a log
    assert ("--follow" in first, "--follow" in last, "--since" in last) == (True, False, False)


def test_a_pod_whose_image_cannot_be_had_is_given_up_and_said_why(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}
    status = {"phase": "Pending", "containerStatuses": [{"state": state}]}
    manifest = cluster(get=[{"out": json.dumps({"items": [{"status": status}]})}] * 3)

    assert kubernetes_run.main(manifest, 60.0) == 125
    assert "ImagePullBackOff: no such host" in capsys.readouterr().out


def test_a_pod_of_which_nobody_can_tell_is_given_up(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = cluster(get=[DOWN, DOWN, DOWN])

    assert kubernetes_run.main(manifest, 60.0) == 125
    assert "nobody knows how the pod of build ended" in capsys.readouterr().out


def test_where_the_cluster_hangs_no_sign_of_life_and_no_process_stays(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "from pathlib import Path\n"
        "from enginekeeper.toolchains.containers import kubernetes_run as it\n"
        "it._REMOVED_WITHIN = 0.6\n"
        "over = threading.Event()\n"
        f"beat = threading.Thread(target=it._beat, args=(Path({str(tmp_path / 'alive')!r}), 0.02, "
        "over), daemon=True)\n"
        "beat.start()\n"
        "it._follow_the_starter('build', 'builds', over)\n"
    )
    tool = tmp_path / "kubectl"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    alive, ends = tmp_path / "alive", time.monotonic() + 10
    while not alive.exists() and time.monotonic() < ends:
        time.sleep(0.02)

    assert process.stdin is not None
    process.stdin.close()
    time.sleep(0.3)
    seen = alive.read_text()
    time.sleep(0.2)

    assert alive.read_text() == seen
    assert process.wait(timeout=10) == -9
