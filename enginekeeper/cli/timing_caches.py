"""`timing-caches`: what the registry keeps of what builds measured."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.command("timing-caches")
@json_option
def timing_caches(as_json: bool) -> int:
    """List the timing caches of TensorRT builds, the latest of each key first to be used.

    One is used only for its own GPU, TensorRT, CUDA runtime and driver API, and only if a builder
    that is trusted signed it. `ek gc` keeps the latest of each key.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.timing.shelf import doubt

    registry = open_bench().registry
    with registry.catalogue.read() as view:
        caches = view.timing.caches()
    doubts = [doubt(one, registry.trust) for one in caches]
    output = Output(as_json)
    if as_json:
        output.json(
            [{**one.as_dict(), "fault": fault} for one, fault in zip(caches, doubts, strict=True)]
        )
        return ExitCode.OK
    rows: list[dict[str, object]] = [
        {
            "id": one.digest.short,
            **one.key.document(),
            "kilobytes": f"{one.size / 1e3:.1f}",
            "grown from": None if one.grown_from is None else one.grown_from.short,
            "recorded": one.recorded_at.isoformat(timespec="minutes")[:16],
            "signed": "yes" if fault is None else f"NOT USED: {fault.splitlines()[0]}",
            "simulated": "SIMULATED" if one.simulated else None,
        }
        for one, fault in zip(caches, doubts, strict=True)
    ]
    output.table(rows, _COLUMNS)
    return ExitCode.OK


_COLUMNS = (
    "id", "gpu", "compute_capability", "tensorrt", "cuda_runtime", "cuda_driver", "kilobytes",
    "grown from", "recorded", "signed", "simulated",
)  # fmt: skip
