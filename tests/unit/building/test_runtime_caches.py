"""Caches go to the node that they were made for, as a copy, and to no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.building.runtime_caches import (
    CACHES,
    DESCRIPTION,
    CacheKey,
    environment_of,
    restore_caches,
)
from enginekeeper.errors import InputError

KEY = CacheKey("NVIDIA H100 80GB HBM3", "9.0", "580.95.05", "13.0", {"torch": "2.9.1"})
DOCUMENT = {
    "gpu_product": KEY.gpu_product, "compute_capability": "9.0", "driver": KEY.driver,
    "cuda": "13.0", "packages": {"torch": "2.9.1"},
}  # fmt: skip
_TEXTS = st.text(min_size=1, max_size=8)
_KEYS = st.builds(
    CacheKey, _TEXTS, _TEXTS, _TEXTS, _TEXTS, st.dictionaries(_TEXTS, _TEXTS, max_size=3)
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    place = tmp_path / "bundle"
    for _, inside in CACHES.values():
        file = place / "caches" / (inside if inside.endswith(".json") else f"{inside}/kernel.so")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"code")
    (place / DESCRIPTION).write_text(json.dumps({"key": DOCUMENT}))
    return place


def test_every_cache_is_led_to_its_copy(bundle: Path, tmp_path: Path) -> None:
    variables = restore_caches(bundle, KEY, tmp_path / "here")

    assert variables == environment_of(tmp_path / "here")
    assert Path(variables["TLLM_AUTOTUNER_CACHE_PATH"]).read_bytes() == b"code"
    copy = Path(variables["TRITON_CACHE_DIR"]) / "kernel.so"
    copy.write_bytes(b"written by the process")
    assert (bundle / "caches" / "triton" / "kernel.so").read_bytes() == b"code"


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (replace(KEY, gpu_product="NVIDIA H200"), "gpu_product: NVIDIA H100"),
        (replace(KEY, driver="590.44.01"), "driver: 580.95.05, here 590.44.01"),
        (replace(KEY, cuda="13.1"), "cuda: 13.0, here 13.1"),
        (replace(KEY, packages={"torch": "2.10.0"}), "package torch: 2.9.1, here 2.10.0"),
        (replace(KEY, packages={}), "package torch: 2.9.1, here None"),
        (replace(KEY, packages={**KEY.packages, "triton": "3.5"}), "package triton: None"),
    ],
)
def test_caches_of_anything_else_are_refused_by_the_field_and_nothing_is_copied(
    here: CacheKey, words: str, bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not of this node") as caught:
        restore_caches(bundle, here, tmp_path / "here")

    assert words in str(caught.value.actual)
    assert {one.name for one in tmp_path.iterdir()} == {"bundle"}


def test_a_place_that_is_taken_stays_as_it_is(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()

    with pytest.raises(InputError, match="something already"):
        restore_caches(bundle, KEY, tmp_path / "here")


@pytest.mark.parametrize("left_out", sorted(DOCUMENT))
def test_a_key_that_is_not_whole_is_none(left_out: str, bundle: Path, tmp_path: Path) -> None:
    document: dict[str, Any] = {name: it for name, it in DOCUMENT.items() if name != left_out}
    (bundle / DESCRIPTION).write_text(json.dumps({"key": document}))

    with pytest.raises(InputError, match="what they are bound to"):
        restore_caches(bundle, KEY, tmp_path / "here")


@given(_KEYS, _KEYS)
def test_keys_differ_in_no_field_only_if_they_are_equal(one: CacheKey, other: CacheKey) -> None:
    assert one.differences(one) == ()
    assert bool(one.differences(other)) is (one != other)
    assert len(one.differences(other)) == len(other.differences(one))
