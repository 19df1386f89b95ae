from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from enginekeeper.errors import InputError
from enginekeeper.validation.checks import Check, Limit
from enginekeeper.validation.findings import TAXONOMY
from enginekeeper.validation.probes import (
    INDUCTOR,
    PROBES,
    Counted,
    ProbeScores,
    load_probes,
    probe_checks,
)

LIMIT = Limit(0.0025, "at most", 0.99, 1, "max_fidelity_kl")
PROMPTS, LENGTH, TOP_K = 10, 12, 8
LADDERS = {
    "batch": ("batch-2", "batch-4-identical"),
    "chunk": ("chunk-7",),
    "decode": ("decode-1",),
}


def logprobs(noise: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    logits = 2.0 * np.random.default_rng(3).standard_normal((PROMPTS * LENGTH, 40))
    logits += noise * np.random.default_rng(seed).standard_normal(logits.shape)
    rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    best: NDArray[np.float32] = rows[:, :TOP_K].astype(np.float32)
    return best


def scores(**noise: float) -> ProbeScores:
    rungs = [rung for one in LADDERS.values() for rung in one]
    return ProbeScores(
        np.arange(0, PROMPTS * LENGTH + 1, LENGTH),
        logprobs(),
        {rung: logprobs(noise.get(rung.replace("-", "_"), 1e-4), 7) for rung in rungs},
        {rung: np.ones(PROMPTS * LENGTH, dtype=np.bool_) for rung in rungs},
        LADDERS,
    )


def named(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name.removeprefix("probe."): check for check in checks}


def test_an_engine_that_agrees_with_itself_passes_what_it_offers() -> None:
    checks = named(probe_checks(scores(), LIMIT))

    assert {name for name, check in checks.items() if check.outcome == "pass"} == {
        "batch", "chunk", "decode",
    }  # fmt: skip


def test_what_a_runner_does_not_offer_is_not_run_and_says_why() -> None:
    checks = named(probe_checks(scores(), LIMIT))

    assert checks["lora"].outcome == "not run"
    assert checks["lora"].note == "the runner offers no lora"
    assert checks["structured"].note == "the runner offers no text, tools"
    assert checks["reuse"].note == "the engine's limits leave no rung"


def test_what_nobody_asked_for_is_not_run() -> None:
    checks = named(probe_checks(None, LIMIT))

    assert {check.outcome for check in checks.values()} == {"not run"}
    assert checks["batch"].note == "the engine was not asked (--probes)"


def test_a_ladder_without_a_rung_is_not_run() -> None:
    alone = ProbeScores(
        scores().offsets, scores().base, {}, {}, {"decode": (), "batch": (), "chunk": ()}
    )

    assert {check.outcome for check in probe_checks(alone, LIMIT)} == {"not run"}


def test_the_worst_rung_decides_and_is_named() -> None:
    checks = named(probe_checks(scores(batch_4_identical=0.8), LIMIT))

    batch = checks["batch"]
    assert (batch.outcome, checks["chunk"].outcome) == ("fail", "pass")
    assert batch.finding is not None
    assert (batch.finding.where, batch.finding.taxonomy) == ("batch-4-identical", "T18")
    assert batch.note == "2 rungs"


def test_rungs_of_longer_texts_are_judged_with_the_others_and_share_their_error() -> None:
    longer = replace(scores(chunk_7=0.8), ladders={"chunk": ("chunk-7",)})
    both = replace(scores(), contexts=longer)

    chunk = named(probe_checks(both, LIMIT))["chunk"]

    assert chunk.outcome == "fail"
    assert (both.every, chunk.note) == (5, "2 rungs")


def test_probes_divide_the_share_of_one_check() -> None:
    wrong = scores(batch_4_identical=0.8)

    alone, fifth = (
        named(probe_checks(wrong, replace(LIMIT, checks=checks)))["batch"] for checks in (1, 5)
    )

    assert alone.lower is not None
    assert fifth.lower is not None
    assert fifth.lower < alone.lower
    assert fifth.upper == alone.upper


def test_a_row_that_is_not_finite_fails_its_probe() -> None:
    broken = scores()
    broken.rungs["chunk-7"][5] = np.nan
    broken.finite["chunk-7"][5] = False

    chunk = named(probe_checks(broken, LIMIT))["chunk"]

    assert chunk.outcome == "fail"
    assert chunk.finding is not None
    assert chunk.finding.taxonomy == "T20"
    assert "1 of 120 rows" in chunk.finding.message


def test_a_base_that_is_not_finite_proves_nothing_and_fails() -> None:
    base = scores().base.copy()
    base[7] = np.nan

    batch = named(probe_checks(replace(scores(), base=base), LIMIT))["batch"]

    assert batch.outcome == "fail"
    assert batch.finding is not None
    assert batch.finding.taxonomy == "T20"


def test_every_probe_names_a_class_and_a_need() -> None:
    assert all(probe.taxonomy in TAXONOMY and probe.needs for probe in PROBES)
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    assert sum(probe.needs <= INDUCTOR for probe in PROBES) == 5


def test_rungs_of_longer_texts_are_read_from_the_same_file(tmp_path: Path) -> None:
    path = written(tmp_path / "p.safetensors")
    arrays = load_file(path)
    arrays |= {
        f"context_{name}": arrays[name]
        for name in ("offsets", "top_logprobs", "chunk-7", "finite_chunk-7")
    }
    further = {"schema": "1", "ladders": json.dumps(LADDERS), "prompts": "[0]"}
    save_file(arrays, path, {**further, "context_ladders": '{"chunk": ["chunk-7"]}'})

    read = load_probes(path)

    assert read.contexts is not None
    assert read.contexts.ladders == {"chunk": ("chunk-7",)}


def written(path: Path, *, schema: str = "1", drop: str | None = None) -> Path:
    given = scores()
    arrays: dict[str, NDArray[Any]] = {
        "offsets": given.offsets,
        "top_logprobs": given.base,
        **given.rungs,
    }
    arrays |= {f"finite_{name}": one.astype(np.uint8) for name, one in given.finite.items()}
    arrays.pop(drop or "", None)
    metadata = {"schema": schema, "ladders": json.dumps(LADDERS), "prompts": "[0]"}
    save_file(arrays, path, metadata)
    return path


def test_a_file_of_probes_is_read(tmp_path: Path) -> None:
    read = load_probes(written(tmp_path / "p.safetensors"))

    assert read.ladders == LADDERS
    np.testing.assert_array_equal(read.rungs["chunk-7"], scores().rungs["chunk-7"])


@pytest.mark.parametrize(
    ("schema", "drop"), [("2", None), ("1", "chunk-7"), ("1", "finite_decode-1")]
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, schema: str, drop: str | None) -> None:
    with pytest.raises(InputError):
        load_probes(written(tmp_path / "p.safetensors", schema=schema, drop=drop))


def test_a_row_that_only_claims_to_be_finite_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "p.safetensors")
    arrays = load_file(path)
    arrays["chunk-7"][3, 2] = np.nan
    save_file(arrays, path, {"schema": "1", "ladders": json.dumps(LADDERS), "prompts": "[0]"})

    with pytest.raises(InputError, match="chunk-7 is not finite"):
        load_probes(path)


def test_what_another_runner_offers_is_what_its_file_says() -> None:
    other = replace(scores(), offers=frozenset({"logits", "batch", "decode", "reuse", "text"}))

    checks = named(probe_checks(other, LIMIT))

    assert checks["chunk"].note == "the runner offers no chunk"
    assert checks["reuse"].note == "the engine's limits leave no rung"
    assert checks["structured"].note == "the runner offers no tools"
    assert checks["batch"].outcome == "pass"


@pytest.mark.parametrize(("wrong", "outcome"), [((), "pass"), (("token 3",), "fail")])
def test_tokens_that_their_logits_did_not_choose_fail(wrong: tuple[str, ...], outcome: str) -> None:
    offers = frozenset({"logits", "choices"})
    asked = replace(scores(), offers=offers, chosen=Counted(8, wrong))

    check = named(probe_checks(asked, LIMIT))["choice"]

    assert check.outcome == outcome
    assert check.finding is None or check.finding.taxonomy == "T23"


@pytest.mark.parametrize(
    ("stopped", "outcome"),
    [
        (Counted(3, ()), "pass"),
        (Counted(3, ("stop token 7 after 2 tokens: 16 tokens",)), "fail"),
        (Counted(0, ()), "not run"),
    ],
)
def test_a_continuation_that_does_not_stop_as_asked_fails(stopped: Counted, outcome: str) -> None:
    offers = frozenset({"logits", "text"})

    check = named(probe_checks(replace(scores(), offers=offers, stop=stopped), LIMIT))["stop"]

    assert check.outcome == outcome
    assert (check.finding is not None) is (outcome == "fail")
