"""Every fault and control of the laboratory, by name."""

from __future__ import annotations

from collections.abc import Mapping

from enginekeeper.errors import MissingError
from enginekeeper.faults import (
    code_faults,
    config_faults,
    controls,
    roundings,
    scale_faults,
    structure_faults,
)
from enginekeeper.faults.fault import Fault
from enginekeeper.validation.findings import TAXONOMY

FAULTS: tuple[Fault, ...] = (
    *scale_faults.FAULTS,
    *code_faults.FAULTS,
    *structure_faults.FAULTS,
    *config_faults.FAULTS,
    *roundings.CONTROLS,
    *controls.CONTROLS,
)

_BY_NAME: Mapping[str, Fault] = {fault.name: fault for fault in FAULTS}

ELSEWHERE: Mapping[str, str] = {
    "T11": "saturation is a matter of activations: behaviour",
    "T16": "accumulation over long contexts: kernels",
    "T17": "chunked prefill: the runtime",
    "T18": "batches and graphs: the runtime",
    "T19": "reuse and eviction: the runtime",
    "T21": "tokenizer and template: not in a checkpoint",
    "T22": "adapters: not in a checkpoint",
    "T24": "the reference: not in a checkpoint",
}
"""Classes of which a checkpoint can show nothing, and why."""


def named(name: str) -> Fault:
    """Returns a fault by its name; raises MissingError that names some."""
    fault = _BY_NAME.get(name)
    if fault is None:
        raise MissingError(
            "no such fault",
            actual=name,
            expected=", ".join(_BY_NAME),
            remedy="see `ek faults list`",
        )
    return fault


def uncovered() -> frozenset[str]:
    """Returns the classes that have neither a fault here nor a reason why not."""
    return frozenset(TAXONOMY) - {fault.taxonomy for fault in FAULTS} - set(ELSEWHERE)
