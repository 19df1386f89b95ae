"""Compiles graphs ahead of time and keeps them in a cache that engines share.

A graph's name is the digest of its signature and of everything else that decides its code: the
version of torch, this CPU's instruction set and the source of the modules it is traced from. A
graph appears in the cache complete or not at all, and is compiled again if its bytes changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _decoder_layer import CACHE_TYPES, DecoderLayer, Head
from _layer_plan import signature_digest
from torch._inductor import aoti_compile_and_package, cpu_vec_isa
from torch.export import Dim, export

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _layer_plan import PlannedGraph

    Tensor = torch.Tensor

TRACED_SOURCES = ("_decoder_layer.py", "_linear.py", "_fake_quant.py", "_graphs.py")
"""Modules whose text decides what a graph computes."""

ENTRIES = {"layer": ("prefill", "decode"), "head": ("head",)}
"""Graphs of a signature: prefill takes two tokens or more, decode exactly one."""

EXAMPLE_BATCH, EXAMPLE_TOKENS, EXAMPLE_SLOTS = 2, 24, 64
"""Sizes of the traced example; dynamic dimensions are told apart by being different."""

COMPILER_OPTIONS = {"cpp.dynamic_threads": True}
"""Otherwise the number of threads of the machine that compiled is written into the code."""

MAX_BATCH, MAX_TOKENS, MAX_SLOTS = 4096, 1 << 17, 1 << 20
"""Bounds of the dynamic dimensions, wide enough to never decide anything."""


@dataclass(frozen=True)
class BuiltGraph:
    """One compiled entry in the cache and what it cost."""

    signature: str
    entry: str
    path: Path
    seconds: float
    reused: bool

    def report(self) -> dict[str, object]:
        """Returns the outputs' row for this graph."""
        return {
            "signature": self.signature,
            "entry": self.entry,
            "seconds": round(self.seconds, 2),
            "reused": self.reused,
            "bytes": self.path.stat().st_size,
        }


def cpu_environment() -> dict[str, str]:
    """Returns what a compiled graph is bound to: torch and the instruction set it was made for."""
    return {
        "torch": str(torch.__version__),
        "isa": str(cpu_vec_isa.pick_vec_isa()),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def graph_digest(graph: PlannedGraph) -> str:
    """Returns the name a graph has in the cache and in every engine that uses it."""
    sources = hashlib.sha256()
    for name in TRACED_SOURCES:
        sources.update(Path(__file__).with_name(name).read_bytes())
    environment = cpu_environment() | {"sources": sources.hexdigest()}
    return signature_digest(graph.signature, environment)


def build_graphs(
    graph: PlannedGraph, tensors: Mapping[str, Tensor], cache: Path
) -> list[BuiltGraph]:
    """Returns every entry of a graph, compiling the ones the cache does not hold."""
    digest = graph_digest(graph)
    built = []
    for entry in ENTRIES[graph.signature["kind"]]:
        path = cache / digest / f"{entry}.pt2"
        record = path.with_suffix(".json")
        if _intact(path, record):
            seconds = float(json.loads(record.read_text())["seconds"])
            built.append(BuiltGraph(digest, entry, path, seconds, reused=True))
            continue
        started = time.monotonic()
        _compile(graph, entry, tensors, path)
        seconds = time.monotonic() - started
        _record(record, graph, path, seconds)
        built.append(BuiltGraph(digest, entry, path, seconds, reused=False))
    return built


def _record(record: Path, graph: PlannedGraph, path: Path, seconds: float) -> None:
    """Writes beside a graph what it is and what its bytes are."""
    description = {
        "sha256": _sha256(path),
        "seconds": seconds,
        "signature": graph.signature,
        **cpu_environment(),
    }
    text = json.dumps(description, indent=1)
    _replace(record, lambda place: place.write_text(text, encoding="utf-8"))


def layer_module(graph: PlannedGraph) -> torch.nn.Module:
    """Returns the module a planned graph is traced from."""
    layouts = {name: part.layout for name, part in graph.linears.items()}
    if graph.signature["kind"] == "head":
        return Head(layouts["output"])
    return DecoderLayer(
        graph.signature["shape"],
        layouts,
        activation=graph.signature["activation"],
        kv_cache=graph.signature["kv_cache"],
    )


def graph_weights(
    graph: PlannedGraph, load: Callable[[str], Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Collects a graph's weight argument; one KV scale for both becomes one for each."""
    weights = {
        name: {role: load(tensor) for role, tensor in part.tensors}
        for name, part in graph.linears.items()
    }
    vectors = {role: load(tensor) for role, tensor in graph.vectors}
    scales = [vectors.pop(role) for role in ("k_scale", "v_scale", "kv_scale") if role in vectors]
    if scales:
        merged = torch.stack([scale.reshape(1) for scale in scales]).amax(dim=0)
        vectors["k_scale"] = vectors["v_scale"] = merged
    weights["vectors"] = vectors
    return weights


def _compile(graph: PlannedGraph, entry: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    module = layer_module(graph)
    weights = graph_weights(graph, tensors.__getitem__)
    arguments, dynamic = (
        _head_example(graph, weights) if entry == "head" else _layer_example(graph, weights, entry)
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own pytrees
        program = export(module, arguments, dynamic_shapes=dynamic, strict=False)
        _replace(
            path,
            lambda place: aoti_compile_and_package(
                program, package_path=str(place), inductor_configs=COMPILER_OPTIONS
            ),
            ".pt2",
        )


def _layer_example(
    graph: PlannedGraph, weights: dict[str, dict[str, Tensor]], entry: str
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns example arguments of a layer and which of their dimensions vary."""
    shape = graph.signature["shape"]
    tokens = 1 if entry == "decode" else EXAMPLE_TOKENS
    batch, slots = Dim("batch", min=1, max=MAX_BATCH), Dim("slots", min=2, max=MAX_SLOTS)
    varying = None if entry == "decode" else Dim("tokens", min=2, max=MAX_TOKENS)
    cache_type = CACHE_TYPES[graph.signature["kv_cache"]]
    cache_shape = (EXAMPLE_BATCH, shape["kv_heads"], EXAMPLE_SLOTS, shape["head_size"])
    table = torch.zeros(EXAMPLE_BATCH, 1, tokens, shape["head_size"])
    arguments = (
        torch.zeros(EXAMPLE_BATCH, tokens, shape["hidden"]),
        (table, table.clone()),
        torch.arange(tokens),
        torch.zeros(EXAMPLE_BATCH, 1, tokens, EXAMPLE_SLOTS),
        tuple(torch.zeros(cache_shape).to(cache_type) for _ in range(2)),
        torch.tensor(1e-5),
        weights,
    )
    tables = {0: batch, 2: varying}
    dynamic = (
        {0: batch, 1: varying},
        (tables, tables),
        {0: varying},
        {0: batch, 2: varying, 3: slots},
        ({0: batch, 2: slots}, {0: batch, 2: slots}),
        None,
        _static(weights),
    )
    return arguments, dynamic


def _head_example(
    graph: PlannedGraph, weights: dict[str, dict[str, Tensor]]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    rows = Dim("rows", min=1, max=MAX_TOKENS)
    states = torch.zeros(EXAMPLE_TOKENS, graph.signature["shape"]["hidden"])
    return (states, torch.tensor(1e-5), weights), ({0: rows}, None, _static(weights))


def _static(weights: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, None]]:
    return {name: dict.fromkeys(part) for name, part in weights.items()}


def _intact(path: Path, record: Path) -> bool:
    """Says whether a cached graph is complete and has the bytes that were compiled."""
    try:
        return json.loads(record.read_text())["sha256"] == _sha256(path)
    except (OSError, ValueError, KeyError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, write: Callable[[Path], object], suffix: str = "") -> None:
    """Writes beside the target and renames, so that the target is old or new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        place = Path(folder) / f"new{suffix}"
        write(place)
        os.replace(place, path)  # noqa: PTH105 - the atomic one, by its own name
