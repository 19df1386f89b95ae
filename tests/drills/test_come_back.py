"""What was taken out of use comes back: swept, and built or carried here again."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry.bundles import write_bundle
from registry.errors import DiagnosedError, IntegrityError
from registry.exchange import evidence_of, import_bundle
from registry.lifecycle import revoke
from registry.retention import RetentionPolicy
from registry.sweeping import plan_sweep, sweep
from registry.types import Engine, Result
from tests.drills.ground import Ground
from tests.drills.ledger import Ledger
from tests.factories.registry import CPU

NOW = RetentionPolicy(grace=timedelta(days=-1), per_key=0)
OLD, NEW = "580.95.05", "590.44.01"
WAYS = ("built again", "built under another driver", "carried from before", "carried, edited")


def out_of_use(ground: Ground, engine: Engine, why: str) -> None:
    if why == "revoked":
        revoke(ground.registry, engine, "wrong tokens", ground.bench.signers.revoker)
    else:
        ground.bench.judge(engine, Result.FAIL)
    sweep(ground.registry, plan_sweep(ground.registry, NOW, orphans=True))
    del ground.acknowledged[engine.digest]


def brought_back(ground: Ground, way: str, content: bytes, bundles: dict[str, Path]) -> None:
    if way in bundles:
        import_bundle(ground.registry, bundles[way], bundles[way].parent / "scratch")
        return
    driver = NEW if way == "built under another driver" else OLD
    engine = ground.publish(ground.publication(content, driver=driver))
    ground.acknowledged.pop(engine.digest)  # by whoever brought it back, not by this drill


def packed(ground: Ground, engine: Engine, directory: Path) -> dict[str, Path]:
    """Packs an engine while it is in use, and once more with another driver in its key."""
    evidence, soft = evidence_of(ground.registry, engine), {"driver": "1.2.3"}
    edited = replace(evidence, key=replace(evidence.key, soft=soft))
    paths = {"carried from before": directory / "good", "carried, edited": directory / "edited"}
    for (_, path), said in zip(paths.items(), (evidence, edited), strict=True):
        write_bundle(ground.registry.store, said, path)
    return paths


@pytest.mark.parametrize("why", ["revoked", "failed"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_taken_out_of_use_does_not_come_back_by_way_of_a_sweep(
    local_ground: Ground, ledger: Ledger, tmp_path: Path, way: str, why: str
) -> None:
    drill = ledger.drill(
        "swept and come back",
        "an engine that was revoked, or failed after it passed, is swept; then built again, built "
        "under another driver, carried here by a bundle from before, or by one with another driver",
    )
    ground, content = local_ground, os.urandom(64)
    engine = ground.publish(ground.publication(content, driver=OLD))
    ground.bench.judge(engine)
    bundles = packed(ground, engine, tmp_path)
    out_of_use(ground, engine, why)
    if way == "carried, edited":
        with pytest.raises(IntegrityError, match=r"soft .*1\.2\.3"):
            brought_back(ground, way, content, bundles)
    else:
        brought_back(ground, way, content, bundles)
    if why == "revoked" and way.startswith("built"):
        ground.bench.judge(engine)  # and passes: it is revoked all the same
    entered, found = opened(ground), ground.look()
    drill.ran(replace(found, forged=(*found.forged, *entered)), f"{why}, {way}")


def opened(ground: Ground) -> tuple[str, ...]:
    """Returns the engines that get into a channel: none may."""
    found = []
    for engine in ground.registry.engines():
        try:
            ground.registry.set_channel("prod", engine.digest, CPU, actor="drill")
        except DiagnosedError:
            continue
        found.append(f"engine {engine.digest.short} in a channel")
    return tuple(found)
