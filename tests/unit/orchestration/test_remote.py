"""What a worker leaves on the server, and what is made of it by whoever asked for the run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginekeeper.errors import EngineKeeperError, InputError, UnavailableError
from enginekeeper.orchestration import remote
from enginekeeper.orchestration.outcome import Ending, Failure, Outcome
from enginekeeper.toolchains.errors import StepPlace, StepRefusedError
from registry.errors import DiagnosedError, DiskFullError

REFUSED = StepRefusedError(
    "too short", StepPlace("reference", "vllm-cpu", Path("step.log")), kind="prompt", subject="p1",
    actual=1, expected=2, remedy="longer prompts",
)  # fmt: skip


def through_json(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "error", [REFUSED, DiskFullError("full", where="/cache"), InputError("bad", remedy="good")]
)
def test_an_error_crosses_as_what_it_was(error: DiagnosedError) -> None:
    found = DiagnosedError.from_dict(through_json(error.as_dict()))

    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.as_dict() == error.as_dict()


def test_an_error_of_an_unknown_version_keeps_its_words() -> None:
    document = {**InputError("bad", where="a").as_dict(), "error": "NewerError"}

    found = DiagnosedError.from_dict(document)

    assert (type(found), str(found)) == (DiagnosedError, "a: bad")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("a", Ending.JUDGED, "pass", "PASS", engine="sha256:1", seconds={"compile": 1.5}),
        Outcome("b", Ending.FAILED, None, "refused", failure=Failure.of(REFUSED)),
    ],
)
def test_an_outcome_crosses_as_what_it_was(outcome: Outcome) -> None:
    found = Outcome.from_dict(through_json(outcome.as_dict()))

    assert found.as_dict() == outcome.as_dict()
    assert (found.failure is None) or found.failure.family is StepRefusedError


class FakeClient:
    """A server's answer about one flow run's artifacts."""

    def __init__(self, **artifacts: list[dict[str, Any]]) -> None:
        self._artifacts = {name.replace("_", "-"): rows for name, rows in artifacts.items()}

    def read_artifacts(self, *, artifact_filter: Any) -> list[Any]:  # noqa: ANN401 - Prefect's
        (key,) = artifact_filter.key.any_
        found = self._artifacts.get(key)
        return [] if found is None else [SimpleNamespace(data=json.dumps(found))]


def left(**artifacts: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - stands for Prefect's client
    return FakeClient(**artifacts)


def run(state: str) -> Any:  # noqa: ANN401 - stands for Prefect's flow run
    ended = SimpleNamespace(name=state, message="it ended", is_failed=lambda: state == "Failed")
    return SimpleNamespace(id="1b4e28ba-2fa1-11d2-883f-0016d3cca427", name="calm-ibis", state=ended)


def test_the_outcomes_of_a_run_are_returned() -> None:
    outcome = Outcome("a", Ending.REUSED, "pass", "PASS")

    found = remote._result(left(enginekeeper_outcomes=[outcome.as_dict()]), run("Completed"))

    assert found == [outcome]


def test_the_error_that_ended_a_run_is_raised_here() -> None:
    client = left(enginekeeper_error=[through_json(REFUSED.as_dict())])

    with pytest.raises(StepRefusedError, match="too short"):
        remote._result(client, run("Failed"))


@pytest.mark.parametrize(
    ("state", "family"),
    [("Failed", EngineKeeperError), ("Crashed", UnavailableError), ("Cancelled", UnavailableError)],
)
def test_a_run_that_left_nothing_says_how_it_ended(
    state: str, family: type[EngineKeeperError]
) -> None:
    with pytest.raises(EngineKeeperError, match="without a result") as caught:
        remote._result(left(), run(state))

    assert type(caught.value) is family
    assert caught.value.actual == f"{state}: it ended"
