"""Environments: identity, and how far a qualification reaches over drivers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.environments import (
    CpuEnvironment,
    DriverScope,
    Environment,
    GpuEnvironment,
    covers,
    environment_from_dict,
)
from registry.errors import InvalidRecordError

H100 = GpuEnvironment("NVIDIA H100 80GB HBM3", "9.0", "12.9", "13.0", "580.95.05")

gpus = st.builds(
    GpuEnvironment, st.sampled_from(["H100", "H200"]), st.just("9.0"), st.just("12.9"),
    st.just("13.0"), st.from_regex(r"5[789]0\.[0-9]{2}\.0[0-9]", fullmatch=True),
    st.sampled_from([None, "1g.10gb"]),
)  # fmt: skip
cpus = st.builds(
    CpuEnvironment, st.lists(st.sampled_from(["avx2", "avx512f"])).map(tuple), st.just("2.13.0")
)


@given(gpus | cpus)
def test_an_environment_reads_back_as_itself(environment: Environment) -> None:
    assert environment_from_dict(environment.as_dict()) == environment


@given(gpus | cpus, gpus | cpus)
def test_equal_digests_mean_equal_environments(a: Environment, b: Environment) -> None:
    assert (a.digest() == b.digest()) is (a == b)


@given(gpus | cpus, gpus | cpus)
def test_a_wider_scope_covers_at_least_as_much(a: Environment, b: Environment) -> None:
    exact, patch, branch = (covers(a, b, scope) for scope in DriverScope)
    assert exact is (a == b)
    assert exact <= patch <= branch


@pytest.mark.parametrize(
    ("driver", "scopes"),
    [
        ("580.95.05", {"exact", "patch", "branch"}),
        ("580.95.12", {"patch", "branch"}),
        ("580.126.01", {"branch"}),
        ("590.48.01", set()),
        ("58.95.05", set()),
    ],
)
def test_the_scope_decides_which_drivers_count(driver: str, scopes: set[str]) -> None:
    asked = replace(H100, driver=driver)
    assert {scope for scope in DriverScope if covers(H100, asked, scope)} == scopes


@pytest.mark.parametrize("field", ["product", "compute_capability", "cuda_runtime", "cuda_driver"])
def test_no_scope_covers_another_gpu_or_cuda(field: str) -> None:
    other = replace(H100, **{field: "other"})
    assert not covers(H100, other, DriverScope.BRANCH)


def test_the_order_of_cpu_flags_does_not_matter() -> None:
    assert CpuEnvironment(("b", "a", "b"), "2") == CpuEnvironment(("a", "b"), "2")


@pytest.mark.parametrize(
    "document",
    [
        {}, {"kind": "tpu"}, {"kind": "gpu", "product": "H100"},
        {"kind": "cpu", "instruction_set": ["avx2"], "torch": 2},
        {"kind": "cpu", "instruction_set": [3], "torch": "2"},
        {"kind": "cpu", "instruction_set": "avx2", "torch": "2"},
        {"kind": ["gpu"]},
        {**H100.as_dict(), "extra": "x"},
    ],
)  # fmt: skip
def test_what_is_not_an_environment_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidRecordError):
        environment_from_dict(document)
