"""Which directory of a pulled engine a server is to load: its files, or those refitted from them.

    INTO/engines/ID/engine    what is signed; of a weight-stripped engine, its plan alone
    INTO/refitted/ID          the same with its weights, made on this node: new bytes

Rules:

- what was refitted is signed by nobody: it is loaded only if the verdict by which the gate is open
  names exactly these bytes (`refit` in its signed document; docs/adr/0095);
- a stripped engine without them is not started: there is nothing in it to run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginekeeper.building.engine_directory import is_stripped
from enginekeeper.documents import read_json_object
from enginekeeper.errors import MissingError
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.refitting import own_weights, refitted
from registry.bundles import FILES
from registry.digests import Digest, digest_bytes
from registry.disks import full_disk_said
from registry.errors import IntegrityError
from registry.evidence import Evidence
from registry.gate import GateDecision
from registry.manifests import Manifest
from registry.service import Registry
from registry.types import Engine

_REFITTED = "refitted"


def stripped_in(files: Path) -> bool:
    """Says of an engine's files whether its weights were left out of them."""
    config = files / "config.json"
    return config.is_file() and is_stripped(read_json_object(config))


def refitted_place(place: Path) -> Path:
    """Returns where an engine that was pulled to a place is with its weights."""
    return place.parent.parent / _REFITTED / place.name


def judged_bytes(document: Mapping[str, Any] | None) -> str | None:
    """Returns which refitted bytes a verdict is about; None where it is about none."""
    refit = None if document is None else document.get("refit")
    found = refit.get("engine") if isinstance(refit, Mapping) else None
    return found if isinstance(found, str) else None


def document_in(registry: Registry, decision: GateDecision) -> Mapping[str, Any] | None:
    """Returns the document of the verdict that decided, as the registry has it."""
    for verdict in registry.verdicts(decision.engine):
        if verdict.digest == decision.verdict:
            return registry.verdict_document(verdict)
    return None


def document_beside(evidence: Evidence, decision: GateDecision) -> Mapping[str, Any] | None:
    """Returns the document of the verdict that decided, from evidence that was verified."""
    for one in evidence.judgements:
        if digest_bytes(one.envelope.encode()) == decision.verdict:
            return one.document
    return None


def loadable(place: Path, document: Mapping[str, Any] | None) -> Path:
    """Returns what is to be loaded of an engine in a place that may run by a verdict.

    Raises MissingError for a stripped engine without its weights, IntegrityError where what was
    refitted is not what the verdict is about.
    """
    whole = with_weights(place)
    if whole != place / FILES:
        _require_judged(whole, judged_bytes(document))
    return whole


def with_weights(place: Path) -> Path:
    """Returns where an engine in a place has its weights, unheld against what was judged.

    Raises MissingError for a stripped engine that nobody refitted here.
    """
    if not stripped_in(place / FILES):
        return place / FILES
    whole = refitted_place(place)
    if not whole.is_dir():
        raise no_weights(place)
    return whole


def no_weights(place: Path) -> MissingError:
    """Returns what is said of a stripped engine that nobody refitted here."""
    return MissingError(
        "the engine has no weights in it: there is nothing to run",
        where=str(place), expected="the same with its weights, refitted on this node",
        remedy="enginekeeper pull ENGINE --into DIRECTORY, then name DIRECTORY/current",
    )  # fmt: skip


def refit_beside(bench: Bench, engine: Engine, place: Path, judged: str | None) -> None:
    """Puts the weights into a stripped engine by this node's toolchain, whole or not at all.

    What is there already and is what was judged stays. Raises IntegrityError, and leaves nothing,
    where something else comes out.
    """
    whole = refitted_place(place)
    if whole.is_dir() and str(_digest_of(whole)) == judged:
        return
    if judged is None:
        raise IntegrityError(
            "no verdict says what the engine is with its weights",
            where=f"engine {engine.digest.short}",
            expected="a verdict by which the gate is open, on the refitted bytes",
            remedy="have it judged: enginekeeper build refits what it judges",
        )
    made = refitted(bench, engine, place / FILES, own_weights(bench, engine), engine.variant)
    product = made.path / "engine"
    _require_judged(product, judged)
    draft = whole.with_name(f".{whole.name}.refitting")
    aside = whole.with_name(f".{whole.name}.damaged")
    with full_disk_said(whole.parent):
        whole.parent.mkdir(parents=True, exist_ok=True)
        for left in (draft, aside):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(product, draft)
        if whole.is_dir():  # who has its files open keeps them
            whole.rename(aside)
        draft.rename(whole)
    shutil.rmtree(aside, ignore_errors=True)


def _require_judged(whole: Path, judged: str | None) -> None:
    found = _digest_of(whole)
    if str(found) != judged:
        raise IntegrityError(
            "the refitted engine is not the one that was judged",
            where=str(whole), actual=found,
            expected=judged or "bytes that the verdict by which the gate is open names",
            remedy="do not serve it: pull again with the toolchain that the verdict names, or "
            "have it judged with this one",
        )  # fmt: skip


def _digest_of(whole: Path) -> Digest:
    return Manifest.of_directory(whole, "engine").digest
