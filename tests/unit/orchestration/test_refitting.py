"""Refitting: what no version of ours could have built is named, and not stumbled over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enginekeeper.errors import InputError
from enginekeeper.orchestration.refitting import refitted
from tests.factories.benches import Site, make_site, variants_of
from tests.factories.gpu_engines import publish_for_gpu


@pytest.mark.parametrize("other", [{"tensorrt_llm": "9.0.0"}, {"gpu_product": "NVIDIA X900"}])
def test_an_engine_of_an_unknown_release_or_gpu_is_named(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    site: Site = make_site(tmp_path / "site")
    (variant,) = variants_of(tmp_path)
    engine = publish_for_gpu(site, variant, **other)
    weights = site.bench.registry.checkpoint(str(engine.checkpoint))
    site.bench.registry.fetch_checkpoint(weights.digest, tmp_path / "weights")

    with pytest.raises(InputError, match="does not know what the engine was built by") as refused:
        refitted(site.bench, engine, tmp_path, tmp_path / "weights", "a variant")

    assert next(iter(other.values())) in str(refused.value)
