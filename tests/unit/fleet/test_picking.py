"""Selectors of nodes: what they pick, and what is none."""

from __future__ import annotations

import pytest

from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import GpuKind
from enginekeeper.fleet.picking import NodeSelector
from enginekeeper.fleet.profiles import Profile, profile_of
from registry.keys import EngineKey
from tests.factories.inventories import inventory

PROFILE = profile_of(inventory(labels={"pool": "h100-a", "zone": "eu"}))


@pytest.mark.parametrize(
    ("text", "picks"),
    [
        ("*", True),
        ("pool=h100-a", True),
        ("pool=h100-*", True),
        ("pool=h200", False),
        ("pool=h100-{a,b},zone=eu", True),
        ("pool=h100-a,zone=us", False),
        ("rack=*", False),
        ("gpu=*H100*", True),
        ("gpu=*A100*", False),
        ("simulated=false", True),
        ("simulated=true", False),
    ],
)
def test_every_term_must_hold(text: str, *, picks: bool) -> None:
    assert NodeSelector.parse(text)(PROFILE) is picks


@pytest.mark.parametrize(
    "text", ["", "pool", "pool=", "=x", "pool=a,", "a={b", "x" * 501, "pool=\u001b[2J", "a=b,*"]
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        NodeSelector.parse(text)


def test_a_profile_is_read_back_whole() -> None:
    assert Profile.of_document(PROFILE.as_document()) == PROFILE


def test_nodes_that_differ_only_in_the_order_of_gpus_are_alike() -> None:
    devices = inventory().devices
    assert profile_of(inventory(devices=devices[::-1])) == profile_of(inventory())


def test_an_engine_meets_the_gpus_that_it_was_built_for() -> None:
    key = EngineKey.of(
        builder="tensorrt_llm", weights="w", recipe="r", gpu_product=PROFILE.kinds[0].product,
        compute_capability="9.0", cuda_runtime="12.9", os="linux", cpu_architecture="x86_64",
    )  # fmt: skip
    (met,) = PROFILE.meets(key)
    assert (met.kind, str(met)) == (
        "gpu", "NVIDIA H100 80GB HBM3, CUDA 12.9, driver 580.95.05",
    )  # fmt: skip
    assert PROFILE.kinds == (GpuKind("NVIDIA H100 80GB HBM3", "9.0"),)


def test_an_engine_for_a_cpu_meets_the_cpu_with_its_own_torch() -> None:
    key = EngineKey.of(builder="inductor", weights="w", recipe="r", torch="2.13.0",
                       instruction_set=["avx2"])  # fmt: skip
    (met,) = PROFILE.meets(key)
    assert str(met) == "CPU avx2 avx512f, torch 2.13.0"


def test_without_a_driver_an_engine_for_a_gpu_meets_nothing() -> None:
    found = profile_of(inventory(driver=None, devices=()))
    key = EngineKey.of(builder="tensorrt_llm", weights="w", recipe="r", gpu_product="NVIDIA L4")
    assert found.meets(key) == ()
