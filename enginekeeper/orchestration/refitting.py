"""Weight-stripped engines: stored without weights, run with them, and with no others.

Rules:

- the plan is published without its weights; they are stored once, in the checkpoint that the
  builder's signed statement names;
- `trtllm-refit` takes any weights whose names fit, and TensorRT promises nothing for others: so
  the checkpoint is held against that statement, by digest, before the tool is started;
- what is refitted is new bytes. A verdict on a stripped engine names them, with the tool that made
  them, and is about nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper.building.engine_directory import is_stripped
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.stages import Made, described, fetched, made_once
from enginekeeper.orchestration.tools import DOUBLE
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.profiles import SIMULATED
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.results import StepOutcome
from registry.attestations import read_material
from registry.digests import Digest
from registry.errors import IntegrityError
from registry.manifests import Manifest
from registry.types import Engine, EngineFilter

STRIPPED, WHOLE_BYTES = "stripped", "whole_bytes"
"""In the info layer of a stripped engine's key: that it is one, and its size with weights."""

_KIND = "refitted"


def refitted(bench: Bench, engine: Engine, plan: Path, weights: Path, name: str) -> Made:
    """Refits a stripped engine whose bytes were verified; makes it once.

    Raises IntegrityError for other weights than those it was built from, and for a product that
    was changed since it was made.
    """
    pinned = _pinned(bench, engine)
    _require_pinned(pinned, weights)
    builder = _builder_of(engine)
    inputs = {
        "plan": str(engine.digest),
        "weights": str(pinned),
        "made_by": bench.shop.identity(builder.toolchain, builder.refit_step),
        "double": bench.shop.code(DOUBLE) if engine.simulated else None,
    }

    def run(toolchain: str, step: str, job: Mapping[str, Any]) -> StepOutcome:
        return bench.shop.run(toolchain, step, job, name=name, minutes=60)

    def make(directory: Path) -> dict[str, Any]:
        outcome = builder.refit(plan, weights, directory / "engine", run)
        return described(directory / "engine", "engine", outcome.seconds)

    made = made_once(bench.shop, _KIND, inputs, make)
    found = Manifest.of_directory(made.path / "engine", "engine").digest
    if str(found) != made.record["digest"]:
        raise IntegrityError(
            "the refitted engine in the work store is not the one that was made",
            where=str(made.path),
            actual=found,
            expected=made.record["digest"],
            remedy=f"remove the directory {made.path} and run again",
        )
    return made


def refit_document(made: Made) -> dict[str, Any]:
    """Returns what a verdict says of the bytes that it is about."""
    inputs = made.record["inputs"]
    return {**inputs, "engine": made.record["digest"]}


def require_judged(bench: Bench, engine: Engine, made: Made) -> bool:
    """Says whether refitted bytes are those that a verdict is about; False where there is none.

    Raises IntegrityError when every verdict on the engine is about other bytes.
    """
    registry = bench.registry
    judged = []
    for verdict in registry.verdicts(engine.digest):
        registry.verify_verdict(engine, verdict)
        judged.append(str(registry.verdict_document(verdict).get("refit", {}).get("engine")))
    if judged and made.record["digest"] not in judged:
        raise IntegrityError(
            "the refitted engine is not the one that was judged",
            where=f"engine {engine.digest.short}",
            actual=made.record["digest"],
            expected=", ".join(sorted(set(judged))),
            remedy="do not serve it: refit with the toolchain that the verdict names, or judge it",
        )
    return bool(judged)


@dataclass(frozen=True)
class Storage:
    """What the engines of one checkpoint take, and would take with their weights."""

    engines: int
    """Stripped engines of this checkpoint."""

    stored: int
    """Bytes of their plans."""

    whole: int
    """Bytes that they would have with their weights in them."""

    @property
    def saved(self) -> int:
        """Bytes that are not stored; the weights lie once in the checkpoint, as ever."""
        return self.whole - self.stored

    def __str__(self) -> str:
        """Returns one line for a person."""
        return (
            f"{self.engines} stripped engines of its checkpoint take {self.stored / 1e6:.1f} MB "
            f"instead of {self.whole / 1e6:.1f} MB: {self.saved / 1e6:.1f} MB saved"
        )


def storage(bench: Bench, engine: Engine) -> Storage:
    """Counts the stripped engines that share an engine's checkpoint."""
    alike = EngineFilter(model=engine.model_name, recipe=engine.recipe)
    found = [
        one
        for one in bench.registry.engines(alike)
        if one.checkpoint == engine.checkpoint and one.key.info.get(STRIPPED)
    ]
    return Storage(
        engines=len(found),
        stored=sum(one.size for one in found),
        whole=sum(int(one.key.info[WHOLE_BYTES]) for one in found),
    )


@dataclass(frozen=True)
class RefittedHere:
    """An engine that was refitted on this node."""

    engine: Engine
    digest: str
    """Of the bytes that were written."""

    path: Path
    judged: bool
    """Whether a verdict is about these very bytes."""

    storage: Storage

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {
            "engine": str(self.engine.digest),
            "refitted": self.digest,
            "path": str(self.path.resolve()),
            "judged": self.judged,
            "simulated": self.engine.simulated,
            "storage": {**asdict(self.storage), "saved": self.storage.saved},
        }


def refit_here(bench: Bench, name: str, place: Path, weights: Path | None) -> RefittedHere:
    """Fetches a stripped engine and its weights, verified, and writes it refitted to a place.

    Raises InputError for an engine that has its weights, and for a place that is taken;
    GateClosedError for one that is quarantined or revoked.
    """
    registry = bench.registry
    engine = registry.engine(name)
    if place.exists():
        raise InputError("there is something already", where=str(place), expected="a new directory")
    registry.require_unheld(engine)
    plan = fetched(
        bench.shop, "engine", engine.digest, lambda at: registry.fetch_engine(engine.digest, at)
    )
    if not is_stripped(read_json_object(plan.path / "engine" / "config.json")):
        raise InputError(
            "the engine has its weights: there is nothing to refit",
            where=f"engine {engine.digest.short}",
            remedy=f"enginekeeper engine fetch {engine.digest.short} DIRECTORY",
        )
    checkpoint = own_weights(bench, engine) if weights is None else weights
    made = refitted(bench, engine, plan.path / "engine", checkpoint, engine.variant)
    judged = require_judged(bench, engine, made)
    draft = place.with_name(f".{place.name}.refit")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(made.path / "engine", draft)
    draft.replace(place)
    return RefittedHere(engine, str(made.record["digest"]), place, judged, storage(bench, engine))


def own_weights(bench: Bench, engine: Engine) -> Path:
    """Brings the checkpoint here that an engine was built from."""
    pinned = _pinned(bench, engine)
    made = fetched(
        bench.shop, "checkpoint", pinned, lambda at: bench.registry.fetch_checkpoint(pinned, at)
    )
    return made.path / "checkpoint"


def _pinned(bench: Bench, engine: Engine) -> Digest:
    """Returns the checkpoint that the builder's signed statement names."""
    return read_material(bench.registry.verify_engine(engine), "checkpoint")


def stripped_info(plan: Path, weights: Path) -> dict[str, Any]:
    """Returns what the info layer of a stripped engine's key says, for whoever counts storage."""
    plans = sum(path.stat().st_size for path in plan.iterdir() if path.is_file())
    tensors = sum(path.stat().st_size for path in weights.glob("rank*.safetensors"))
    return {STRIPPED: True, WHOLE_BYTES: plans + tensors}


def _require_pinned(pinned: Digest, weights: Path) -> None:
    found = Manifest.of_directory(weights, "checkpoint").digest
    if found != pinned:
        raise IntegrityError(
            "these are not the weights that the engine was built from",
            where=str(weights),
            actual=found,
            expected=pinned,
            remedy="refit it with its own checkpoint: TensorRT promises nothing for other weights",
        )


def _builder_of(engine: Engine) -> TensorrtLlmBuilder:
    """Returns what refits an engine; raises InputError for what this version does not know."""
    hard = engine.key.hard
    release = releases().get(f"tensorrt-llm-{hard.get('tensorrt_llm')}")
    products = {one.product: one for one in gpu_products().values()}
    gpu = products.get(str(hard.get("gpu_product")))
    if release is None or gpu is None:
        raise InputError(
            "this version does not know what the engine was built by, or for",
            where=f"engine {engine.digest.short}",
            actual=f"TensorRT-LLM {hard.get('tensorrt_llm')}, {hard.get('gpu_product')}",
            remedy="refit it with the version of Enginekeeper that built it",
        )
    prefix = SIMULATED if engine.simulated else ""
    return TensorrtLlmBuilder(release, gpu, f"{prefix}{release.name}", simulated=engine.simulated)
