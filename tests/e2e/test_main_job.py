"""The main job in the shell, on a real model: what is right passes, what is wrong is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.toolchain, pytest.mark.enable_socket]

SPECS = Path(__file__).parents[2] / "buildspecs"
GOOD, WRONG = "smollm2-135m.w8a16.tp1.cpu", "smollm2-135m.w8a16.tp1.cpu.unrepaired"


@dataclass(frozen=True)
class Shell:
    """Runs `ek` with a home of its own; caches are shared, as a user's are."""

    home: Path

    def ek(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ek"), *arguments],
            env={
                **os.environ,
                "ENGINEKEEPER_HOME": str(self.home),
                "PREFECT_HOME": str(self.home / "prefect"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, expect: int = 0) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads(self.ek(*arguments, "--json", expect=expect).stdout)

    def build(self, *options: str, expect: int) -> dict[str, Any]:
        outcomes = self.json(
            "build", str(SPECS / "smollm2.yaml"), "--only", "*.w8a16.*", *options, expect=expect
        )
        return {outcome["variant"]: outcome for outcome in outcomes}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def outcomes(shell: Shell) -> dict[str, Any]:
    return shell.build("--channel", "demo", expect=5)


def names(findings: Sequence[dict[str, Any]]) -> str:
    return " ".join(f"{finding['where']} {finding['message']}" for finding in findings)


def test_the_repaired_checkpoint_passes_on_both_lines(outcomes: dict[str, Any]) -> None:
    good = outcomes[GOOD]
    assert (good["result"], good["fidelity"], good["quality"]) == ("pass", "pass", "pass")
    assert good["channel"] == "demo: set"


def test_the_export_without_rotary_base_is_named_and_stopped(
    shell: Shell, outcomes: dict[str, Any]
) -> None:
    wrong = outcomes[WRONG]
    assert (wrong["result"], wrong["fidelity"]) == ("fail", "fail")
    assert "refused" in wrong["channel"]
    document = shell.json("engine", "explain", wrong["engine"])
    config = next(audit for audit in document["audits"] if audit["check"] == "config")
    told = names(config["findings"])
    assert "rotary_base" in told
    assert "10000" in json.dumps(config["findings"])
    assert "100000" in json.dumps(config["findings"])


def test_the_verdicts_name_the_reference_that_is_stored(
    shell: Shell, outcomes: dict[str, Any]
) -> None:
    documents = [shell.json("engine", "explain", one["engine"]) for one in outcomes.values()]
    (named,) = {document["evidence"]["reference"] for document in documents}
    (manifest,) = (shell.home / "store" / "references" / "smollm2-135m").glob("*/*/manifest.json")
    assert named == f"sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}"


def test_behaviour_alone_fails_it_too(shell: Shell, outcomes: dict[str, Any]) -> None:
    assert outcomes[WRONG]["result"] == "fail"
    blind = json.loads(
        shell.ek(
            "build", str(SPECS / "smollm2.yaml"), "--only", WRONG, "--no-audit", "--json", expect=5
        ).stdout
    )
    assert blind[0]["fidelity"] == "fail"
    assert "the export is not its recipe" in blind[0]["summary"]


def test_the_gate_is_open_for_one_and_closed_for_the_other(
    shell: Shell, outcomes: dict[str, Any]
) -> None:
    assert shell.json("gate", outcomes[GOOD]["engine"])["rule"] == "qualified"
    closed = shell.json("gate", outcomes[WRONG]["engine"], expect=5)
    assert closed["rule"] == "verdict-failed"
    shell.ek("channel", "set", "prod", outcomes[WRONG]["engine"], expect=5)


def test_a_second_run_does_nothing_but_say_so(shell: Shell, outcomes: dict[str, Any]) -> None:
    assert outcomes
    again = shell.build(expect=5)
    assert {one["ending"] for one in again.values()} == {"reused"}


def test_an_engine_is_fetched_verified_and_found(
    shell: Shell, outcomes: dict[str, Any], tmp_path: Path
) -> None:
    shell.ek("engine", "fetch", outcomes[GOOD]["engine"], "--to", str(tmp_path / "engine"))
    rows = shell.json("where")
    assert [(row["bytes"], row["gate"]) for row in rows] == [("verified", "open")]
    (tmp_path / "engine" / "config.json").write_text("{}")
    assert shell.json("where", expect=7)[0]["bytes"] == "CHANGED"


def test_tensor_parallel_in_the_middle_of_a_head_is_refused_at_plan_time(
    shell: Shell, outcomes: dict[str, Any]
) -> None:
    assert outcomes
    planned = shell.json("plan", str(SPECS / "smollm2-tp2.yaml"), expect=8)
    assert planned[0]["action"] == "refuse"


def test_a_promise_of_scales_that_are_not_there_stops_the_build(
    shell: Shell, outcomes: dict[str, Any]
) -> None:
    assert outcomes
    failed = shell.json("build", str(SPECS / "smollm2-broken-promise.yaml"), expect=9)
    assert "prequant_scaling_factor" in failed[0]["summary"]
