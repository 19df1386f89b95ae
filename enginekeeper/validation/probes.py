"""Probes: the same tokens, asked in other ways. Each says what it needs of a runner.

Rules:

- a probe compares an engine with itself, so it needs no twin and knows no recipe;
- what a runner does not offer, or nobody asked for, is `not run`, with the reason: never passed;
- a row that is not finite on any rung fails its probe;
- the worst rung of a ladder decides; the rungs of all ladders share one check's error of a failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginekeeper.errors import InputError
from enginekeeper.validation.array_files import ArrayFile
from enginekeeper.validation.checks import Check, Limit, Quantity, bounded, gravity
from enginekeeper.validation.divergence import kl_on_partition
from enginekeeper.validation.findings import Finding

SCHEMA = "1"
_CONTEXT = "context_"

INDUCTOR = frozenset({"logits", "batch", "chunk", "decode", "reuse", "evict"})
"""What the embedded builder's runner offers; another says what it offers in its file."""


@dataclass(frozen=True)
class Probe:
    """A way to be wrong that only shows when an engine is asked in a particular way."""

    name: str
    taxonomy: str
    needs: frozenset[str]
    meaning: str


def _probe(name: str, taxonomy: str, needs: str, meaning: str) -> Probe:
    return Probe(f"probe.{name}", taxonomy, frozenset(needs.split()), meaning)


PROBES = (
    _probe("decode", "T10", "logits decode", "prefill against the same tokens one by one"),
    _probe("batch", "T18", "logits batch", "one at a time against batches of several sizes"),
    _probe("chunk", "T17", "logits chunk", "whole prefill against prefill in chunks"),
    _probe("reuse", "T19", "logits reuse", "a first request against one that reuses its cache"),
    _probe("eviction", "T19", "logits reuse evict", "the same after its cache was evicted"),
    _probe("tensor_parallel", "T14", "logits ranks", "one rank against several"),
    _probe("lora", "T22", "logits lora", "what an adapter changes, against the source"),
    _probe("routing", "T20", "logits experts", "every expert reached, every row finite"),
    _probe("tokenizer", "T21", "tokenizer", "token ids of awkward texts against the source"),
    _probe("template", "T21", "tokenizer", "conversations as the template renders them"),
    _probe("stop_tokens", "T21", "tokenizer", "tokens that end a text, against the source"),
    _probe("stop", "T21", "text", "stop tokens, finish reasons and lengths"),
    _probe("choice", "T23", "choices", "tokens generated against the logits that came with them"),
    _probe("structured", "T21", "text tools", "structured output and tool calls"),
)
"""All that are known; those whose needs nobody here offers are listed to be seen."""

TEXTS = tuple(probe.name for probe in PROBES if "tokenizer" in probe.needs)
"""Those that no runner is asked: what is shipped beside an engine is held against the source."""

UNASKED = "the engine was not asked (--probes)"

_WRONG = {
    "probe.stop": ("continuations", "stop", "did not end as asked"),
    "probe.choice": ("continuations", "logits", "are not what their logits choose"),
    "probe.tokenizer": ("texts", "tokenizer", "are cut or read back otherwise than by the model's"),
    "probe.template": ("prompts", "chat template", "are rendered otherwise than by the model's"),
    "probe.stop_tokens": ("tokens", "stop tokens", "are not those of the model"),
}
"""What a probe counts, where a fault of it lies, and what is wrong with those that it counted."""


@dataclass(frozen=True)
class Counted:
    """What had to be in one way: to end as asked, to be what logits or the model say."""

    asked: int
    wrong: tuple[str, ...]
    """What was otherwise than it had to be, in words."""

    @classmethod
    def of(cls, said: Any, where: str) -> Counted:  # noqa: ANN401 - any JSON value
        """Reads a count that a step wrote; raises InputError for what is none."""
        if isinstance(said, Mapping):
            asked, wrong = said.get("asked"), said.get("wrong")
            if type(asked) is int and isinstance(wrong, list):
                return cls(asked, tuple(map(str, wrong)))
        raise InputError(
            "not a count of what was asked and what was wrong", where=where,
            actual=repr(said)[:80],
        )  # fmt: skip


@dataclass(frozen=True)
class ProbeScores:
    """What an engine said on every rung, at the best tokens of the base."""

    offsets: NDArray[np.int64]
    base: NDArray[np.float32]
    rungs: Mapping[str, NDArray[np.float32]]
    finite: Mapping[str, NDArray[np.bool_]]
    ladders: Mapping[str, tuple[str, ...]]
    offers: frozenset[str] = INDUCTOR
    """What the runner could be asked."""
    stop: Counted | None = None
    """What came of asking it to stop; None where nobody asked."""
    chosen: Counted | None = None
    """Whether what it generated is what its logits choose; None where nobody looked."""
    contexts: ProbeScores | None = None
    """What it said of longer texts, on rungs that the others are too short for."""

    def of_ladder(self, ladder: str) -> list[tuple[ProbeScores, str]]:
        """Returns the rungs of a ladder, each with the texts that it was asked of."""
        both = (self,) if self.contexts is None else (self, self.contexts)
        return [(asked, rung) for asked in both for rung in asked.ladders.get(ladder, ())]

    @property
    def every(self) -> int:
        """How many rungs there are in all: they share one check's error of a failure."""
        further = 0 if self.contexts is None else self.contexts.every
        return sum(map(len, self.ladders.values())) + further

    def sound(self, rung: str) -> NDArray[np.bool_]:
        """Says which rows are finite on the rung and in the base it is held against."""
        rows: NDArray[np.bool_] = self.finite[rung] & np.isfinite(self.base).all(axis=1)
        return rows

    def divergence(self, rung: str) -> NDArray[np.float64]:
        """Returns KL(base ‖ rung) by position; 0 where a row is not finite, which is counted."""
        kept = self.sound(rung)
        values = np.zeros(len(kept))
        values[kept] = kl_on_partition(self.base[kept], self.rungs[rung][kept])
        return values


def load_probes(path: Path) -> ProbeScores:
    """Reads what the step `probe_engine` wrote; raises InputError for what is not whole."""
    file = ArrayFile.open(path, holds="probes", schema=SCHEMA)
    scores = _scores(file, file.arrays, _ladders(file, "ladders"))
    return replace(
        scores,
        offers=frozenset(file.listed("offers", str)) if "offers" in file.metadata else INDUCTOR,
        stop=_counted("stop", file),
        chosen=_counted("chosen", file),
        contexts=_contexts(file),
    )


def _contexts(file: ArrayFile) -> ProbeScores | None:
    if f"{_CONTEXT}ladders" not in file.metadata:
        return None
    ladders = _ladders(file, f"{_CONTEXT}ladders")
    named = {
        name.removeprefix(_CONTEXT): one
        for name, one in file.arrays.items()
        if name.startswith(_CONTEXT)
    }
    return _scores(file, named, ladders) if ladders else None


def _scores(
    file: ArrayFile, arrays: Mapping[str, NDArray[Any]], ladders: Mapping[str, tuple[str, ...]]
) -> ProbeScores:
    names = [rung for rungs in ladders.values() for rung in rungs]
    _check_rungs(arrays, names, file.path)
    return ProbeScores(
        arrays["offsets"],
        arrays["top_logprobs"],
        {name: arrays[name] for name in names},
        {name: arrays[f"finite_{name}"] != 0 for name in names},
        ladders,
    )


def _ladders(file: ArrayFile, name: str) -> dict[str, tuple[str, ...]]:
    said = file.said(name)
    if not isinstance(said, dict) or not all(isinstance(rungs, list) for rungs in said.values()):
        raise InputError(
            "not ladders with their rungs", where=f"{file.path}: {name}", actual=repr(said)[:80]
        )
    return {name: tuple(map(str, rungs)) for name, rungs in said.items()}


def _check_rungs(arrays: Mapping[str, NDArray[Any]], names: list[str], path: Path) -> None:
    """Raises InputError unless every rung says something of every position, in numbers."""
    where = str(path)
    asked = ["offsets", "top_logprobs", *names, *(f"finite_{name}" for name in names)]
    if missing := [name for name in asked if name not in arrays]:
        raise InputError("the rungs do not match", where=where, actual=missing)
    rows, shape = int(arrays["offsets"][-1]), arrays["top_logprobs"].shape
    shapes = {name: arrays[name].shape for name in names}
    marks = {arrays[f"finite_{name}"].shape for name in names}
    if shape[:1] != (rows,) or set(shapes.values()) - {shape} or marks - {(rows,)}:
        raise InputError(
            "the rungs do not match", where=where, actual=shapes, expected=f"{rows} rows each"
        )
    for name in names:
        if not np.isfinite(arrays[name][arrays[f"finite_{name}"] != 0]).all():
            raise InputError(
                f"{name} is not finite in a row that is marked finite", where=where,
                remedy="ask the engine again",
            )  # fmt: skip


def _counted(name: str, file: ArrayFile) -> Counted | None:
    if name not in file.metadata:
        return None
    return Counted.of(file.said(name), f"{file.path}: {name}")


def probe_checks(
    scores: ProbeScores | None, limit: Limit, texts: Mapping[str, Counted | str] | None = None
) -> tuple[Check, ...]:
    """Judges every probe by the divergence an engine may have from its recipe.

    `texts` is what became of TEXTS: counted, or why it was not run; None where nobody asked.
    """
    return tuple(
        _text_check(probe, texts) if probe.name in TEXTS else _check(probe, scores, limit)
        for probe in PROBES
    )


def text_checks(texts: Mapping[str, Counted | str] | None) -> tuple[Check, ...]:
    """Judges what is shipped beside an engine, whatever its runner is."""
    return tuple(_text_check(probe, texts) for probe in PROBES if probe.name in TEXTS)


def _text_check(probe: Probe, texts: Mapping[str, Counted | str] | None) -> Check:
    said = UNASKED if texts is None else texts[probe.name]
    if isinstance(said, Counted):
        return _counted_check(probe, said)
    return Check(probe.name, "not run", probe.meaning, note=said)


def _check(probe: Probe, scores: ProbeScores | None, limit: Limit) -> Check:
    lacking = sorted(probe.needs - (INDUCTOR if scores is None else scores.offers))
    if lacking:
        reason = f"the runner offers no {', '.join(lacking)}"
    elif scores is None:
        reason = UNASKED
    elif probe.name == "probe.stop" and scores.stop is not None:
        return _counted_check(probe, scores.stop)
    elif probe.name == "probe.choice" and scores.chosen is not None:
        return _counted_check(probe, scores.chosen)
    else:
        if rungs := scores.of_ladder(probe.name.removeprefix("probe.")):
            return _worst_rung(probe, scores, rungs, limit)
        reason = "the engine's limits leave no rung"
    return Check(probe.name, "not run", probe.meaning, note=reason)


def _counted_check(probe: Probe, counted: Counted) -> Check:
    """Fails at the first one that is not as it had to be: greedy ones are certain."""
    wrong, (unit, where, what) = len(counted.wrong), _WRONG[probe.name]
    check = Check(
        probe.name,
        "fail" if wrong else "pass",
        probe.meaning,
        unit,
        float(wrong),
        limit=0.0,
        prompts=counted.asked,
    )
    if not counted.asked:
        return replace(check, outcome="not run", note=f"there are no {unit} to look at")
    if not wrong:
        return check
    message = f"{wrong} {unit} {what}: {counted.wrong[0]}"
    finding = Finding(probe.name, "fail", where, message, wrong, 0, probe.taxonomy)
    return replace(check, note=message, finding=finding)


def _worst_rung(
    probe: Probe, scores: ProbeScores, rungs: Sequence[tuple[ProbeScores, str]], limit: Limit
) -> Check:
    shared = replace(limit, checks=limit.checks * scores.every)
    checks = [_rung(probe, asked, rung, shared) for asked, rung in rungs]
    worst = max(checks, key=lambda one: (gravity(one), one.value or 0.0))
    return replace(worst, note="; ".join(filter(None, (worst.note, f"{len(rungs)} rungs"))))


def _rung(probe: Probe, scores: ProbeScores, rung: str, limit: Limit) -> Check:
    starts, lengths = scores.offsets[:-1], np.diff(scores.offsets).astype(np.float64)
    sums = np.add.reduceat(scores.divergence(rung), starts)
    broken = int((~scores.sound(rung)).sum())
    quantity = Quantity(
        probe.name,
        f"{probe.meaning}; worst rung: {rung.split('-', 1)[1]}",
        "nats per position",
        sums,
        lengths,
        np.zeros(len(lengths), dtype=np.int64),
        least=0.0,
    )
    check = bounded(quantity, limit)
    if broken:
        message = (
            f"{broken} of {len(scores.base)} rows of logits hold NaN or infinity, here or in the"
            " prefill it is compared with"
        )
        finding = Finding(probe.name, "fail", rung, message, broken, 0, "T20")
        return replace(check, outcome="fail", note=message, finding=finding)
    if check.outcome != "fail":
        return check
    message = f"the engine contradicts itself: {probe.meaning}"
    expected = f"at most {limit.value:g} nats per position"
    finding = Finding(probe.name, "fail", rung, message, check.value, expected, probe.taxonomy)
    return replace(check, finding=finding)
