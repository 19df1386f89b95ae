"""One case of the grid: a fault goes into a draft, and what the audits say is held against it.

A matrix whose tensors, norm and recipe are those of the healthy checkpoint has the findings that
it has there: they are looked up and not made again. What is compared between matrices is always
made anew. A test holds the result against audits that look nothing up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from enginekeeper.errors import InputError
from enginekeeper.faults.draft import Draft, InapplicableError
from enginekeeper.faults.grid import Case
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.config_audit import audit_config
from enginekeeper.validation.findings import Finding
from enginekeeper.validation.numerics.mapping import Geometry, LinearPlace
from enginekeeper.validation.numerics.recipes import UnknownRecipeError
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import StoredTensor
from enginekeeper.validation.weight_audit import WeightAudit

Outcome = Literal["hit", "miss", "doubt", "alarm", "clear", "not applicable"]
"""Of a fault: hit, miss, or doubt (inconclusive); of a control: clear, alarm or doubt."""

_REFUSED = "refused"
"""The check of what the audits would not read: it names a place and no class."""

_TOLD = 3
"""Findings that a trial keeps."""

Memory = dict[Hashable, tuple[Finding, ...]]


@dataclass(frozen=True)
class Trial:
    """What the audits said of one case."""

    case: str
    fault: str
    taxonomy: str | None
    in_files: bool
    below_limit: bool
    outcome: Outcome
    check: str | None = None
    """The check of the first finding."""
    culprit_right: bool | None = None
    """Whether the first finding names the culprit; None where nothing failed."""
    class_right: bool | None = None
    """Whether the first finding names the class; None where nothing failed, or was refused."""
    innocents: int = 0
    """Failed findings that name something else."""
    told: tuple[str, ...] = ()
    seconds: float = 0.0
    """Processor time."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the trial as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class _Remembering(WeightAudit):
    """A weight audit that looks up what it said of a matrix of the healthy checkpoint."""

    healthy: frozenset[Path] = frozenset()
    """The files of the healthy checkpoint."""
    memory: Memory = field(default_factory=dict)

    def linear(self, place: LinearPlace) -> Iterator[Finding]:
        """Yields what is wrong with one matrix."""
        key = self._key(place)
        if key is None:
            yield from super().linear(place)
            return
        if key not in self.memory:
            self.memory[key] = tuple(super().linear(place))
        yield from self.memory[key]

    def _key(self, place: LinearPlace) -> Hashable:
        """Returns all that the findings follow from, or None where some of it was edited."""
        checkpoint = self.checkpoint
        try:
            recipe = self.recipe(place)
        except UnknownRecipeError:
            return None
        _, local = checkpoint.stage(place.layer, f"{place.name}.")
        files = checkpoint.shards(place.layer, place.name)
        own = [file[n] for file in files for n in sorted(file) if n.startswith(local)]
        norm = checkpoint.tensors(place.layer, f"{place.norm[0]}.weight") if place.norm else []
        tensors: tuple[StoredTensor, ...] = (*own, *norm)
        if any(tensor.file not in self.healthy for tensor in tensors):
            return None
        return place, recipe, checkpoint.dtype, len(files), tensors


@dataclass
class Bench:
    """A healthy checkpoint beside its source, and what is known of the two."""

    source: SourceModel
    checkpoint: Path
    memory: Memory = field(default_factory=dict)

    @classmethod
    def open(cls, checkpoint: Path, source: Path) -> Bench:
        """Opens both; raises InputError."""
        Checkpoint.open(checkpoint)
        return cls(SourceModel.open(source), checkpoint)

    def healthy(self) -> tuple[list[Finding], float]:
        """Audits the checkpoint as it is, in full; returns findings and processor seconds."""
        start = time.process_time()
        findings = self._audit(Checkpoint.open(self.checkpoint))
        return findings, time.process_time() - start

    def run(self, case: Case) -> Trial:
        """Puts the case's fault into a draft and audits it."""
        start = time.process_time()
        draft = Draft.open(self.checkpoint)
        draft.source = self.source
        try:
            culprits = case.injection.apply(draft)
        except InapplicableError as error:
            return _trial(case, "not applicable", told=(error.what,))
        with tempfile.TemporaryDirectory(prefix="ek-fault-") as place:
            findings = self._findings(draft, Path(place))
        return _judged(case, culprits, findings, time.process_time() - start)

    def _findings(self, draft: Draft, place: Path) -> list[Finding]:
        """Audits a draft; what the audits refuse to look at is a finding too."""
        try:
            return self._audit(draft.overlay(place))
        except InputError as error:
            where = (error.where or "").removeprefix(f"{place}/")
            return [Finding(_REFUSED, "fail", where, error.what, error.actual, error.expected)]

    def _audit(self, checkpoint: Checkpoint) -> list[Finding]:
        healthy = frozenset(file.path for file in Checkpoint.open(self.checkpoint).ranks)
        geometry = Geometry.of(self.source.config)
        weights = _Remembering(
            self.source, checkpoint, geometry, processes=1, healthy=healthy, memory=self.memory
        )  # one process: what it remembers, it must not forget
        return [*audit_config(self.source, checkpoint).findings, *weights.run().findings]


def _judged(
    case: Case, culprits: tuple[str, ...], findings: list[Finding], seconds: float
) -> Trial:
    failed = [finding for finding in findings if finding.result == "fail"]
    told = tuple(f"{f.result} {f.where}: {f.message}" for f in (failed or findings)[:_TOLD])
    if case.fault.healthy:
        outcome: Outcome = "alarm" if failed else ("doubt" if findings else "clear")
        return _trial(case, outcome, told=told, seconds=seconds)
    if not failed:
        return _trial(case, "doubt" if findings else "miss", told=told, seconds=seconds)
    named = [_names(finding, culprits) for finding in failed]
    first = failed[0]
    return _trial(
        case,
        "hit",
        check=first.check,
        culprit_right=named[0],
        class_right=None if first.check == _REFUSED else first.taxonomy in case.fault.classes,
        innocents=named.count(False),
        told=told,
        seconds=seconds,
    )


def _names(finding: Finding, culprits: tuple[str, ...]) -> bool:
    """Says whether a finding names a culprit, or what is in it: `layers.1` is not `layers.10`."""
    where = finding.where
    return any(where == one or where.startswith((f"{one}.", f"{one} ")) for one in culprits)


def _trial(case: Case, outcome: Outcome, **details: Any) -> Trial:  # noqa: ANN401 - fields of Trial
    fault = case.fault
    return Trial(
        case.name, fault.name, fault.taxonomy, fault.in_files, case.below_limit, outcome, **details
    )
