"""All checks of `--probes`: an engine in other ways, taken apart, and what serves it."""

from __future__ import annotations

from dataclasses import replace

from enginekeeper.validation import endings
from enginekeeper.validation.checks import Check, Limit
from enginekeeper.validation.endings import endings_check
from enginekeeper.validation.evidence import Evidence
from enginekeeper.validation.layers import LAYERS, LINEARS, Kind, LayerScores, layers_check
from enginekeeper.validation.probes import UNASKED, probe_checks


def asked_checks(evidence: Evidence, limit: Limit) -> tuple[Check, ...]:
    """Judges what an engine said when it was asked; what it was not asked is `not run`."""
    probes = probe_checks(evidence.probes, limit, evidence.texts)
    return (
        *(_endings(evidence, limit, one) if one.name == endings.NAME else one for one in probes),
        _parts(evidence, evidence.layers, LAYERS, limit),
        _parts(evidence, evidence.linears, LINEARS, limit),
    )


def _endings(evidence: Evidence, limit: Limit, probe: Check) -> Check:
    """Judges where texts end beside the twin, where that was asked; else it is as it was."""
    said = evidence.endings
    if said is None:
        return probe
    if isinstance(said, str):
        return replace(probe, note=said)
    return endings_check(said, limit)


def _parts(evidence: Evidence, scores: LayerScores | None, kind: Kind, limit: Limit) -> Check:
    if scores is not None:
        return layers_check(scores, limit, kind)
    reason = UNASKED if evidence.probes is None else "the runner takes no layer apart"
    return Check(kind.name, "not run", kind.meaning, note=reason)
