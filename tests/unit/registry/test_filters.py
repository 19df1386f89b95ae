"""Ranges of versions, qualification, near misses and channels, asked of a catalogue."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.environments import GpuEnvironment
from registry.errors import RecordNotFoundError
from registry.keys import EngineKey, Layer
from registry.types import Engine, EngineFilter, Result
from registry.versions import VersionRange
from tests.factories.registry import H100, Workbench, cpu_key, make_workbench

CAPABILITIES = ("8.9", "9.0", "10.0", "12.0", "12.1")
RUNTIMES = ("12.4", "12.9", "12.10", "13.0")
DRIVERS = ("550.163.01", "570.86.10", "570.124.06", "580.9.1", "580.95.05", "580.126.01")


def gpu(bench: Workbench, capability: str, cuda: str, **fields: str) -> Engine:
    return bench.publish(
        content=f"{capability} {cuda} {fields}".encode(), compute_capability=capability,
        cuda_runtime=cuda, gpu_product=H100.product, **fields,
    )  # fmt: skip


def on(driver: str) -> GpuEnvironment:
    return replace(H100, driver=driver)


def digests(engines: list[Engine]) -> set[str]:
    return {engine.digest.short for engine in engines}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, list[Engine]]:
    """An engine for every capability and runtime; each judged under two drivers."""
    bench = make_workbench(tmp_path_factory.mktemp("fleet"))
    engines = [gpu(bench, one, other) for one in CAPABILITIES for other in RUNTIMES]
    for number, engine in enumerate(engines):
        bench.judge(engine, Result.PASS, on(DRIVERS[number % len(DRIVERS)]))
        bench.judge(engine, Result.FAIL, on(DRIVERS[(number + 1) % len(DRIVERS)]))
    return bench, engines


RANGES = st.one_of(
    st.sampled_from(["9", "12", "12.1", "R580", "580.9", "570", "12.10"]),
    st.builds(
        lambda low, high: f">={low},<{high}",
        st.sampled_from(CAPABILITIES + RUNTIMES + DRIVERS),
        st.sampled_from(CAPABILITIES + RUNTIMES + DRIVERS),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(capability=RANGES, cuda=RANGES)
def test_ranges_of_hardware_and_cuda_are_compared_as_numbers(
    fleet: tuple[Workbench, list[Engine]], capability: str, cuda: str
) -> None:
    bench, engines = fleet
    wanted = EngineFilter(
        compute_capability=VersionRange.parse(capability), cuda=VersionRange.parse(cuda)
    )
    expected = {
        one.digest.short
        for one in engines
        if one.key.hard["compute_capability"] in VersionRange.parse(capability)
        and one.key.hard["cuda_runtime"] in VersionRange.parse(cuda)
    }
    assert digests(bench.registry.engines(wanted)) == expected


@settings(max_examples=40)
@given(driver=RANGES, qualified=st.booleans())
def test_ranges_of_drivers_are_of_where_an_engine_was_judged(
    fleet: tuple[Workbench, list[Engine]], driver: str, *, qualified: bool
) -> None:
    bench, engines = fleet
    versions = VersionRange.parse(driver)
    expected = {
        one.digest.short
        for one in engines
        for verdict in bench.registry.verdicts(one.digest)
        if isinstance(verdict.environment, GpuEnvironment)
        and verdict.environment.driver in versions
        and (verdict.result is Result.PASS or not qualified)
    }
    found = bench.registry.engines(EngineFilter(driver=versions, qualified=qualified))
    assert digests(found) == expected


def test_a_later_failure_ends_a_qualification(bench: Workbench) -> None:
    engine = gpu(bench, "9.0", "12.9")
    bench.judge(engine, Result.PASS, on("580.95.05"))
    asked = EngineFilter(driver=VersionRange.parse("R580"), qualified=True)
    assert bench.registry.engines(asked) == [engine]
    bench.judge(engine, Result.FAIL, on("580.95.05"))
    assert bench.registry.engines(asked) == []
    assert bench.registry.engines(replace(asked, qualified=False)) == [engine]


def test_a_limit_keeps_the_newest(bench: Workbench) -> None:
    engines = [gpu(bench, one, "12.9") for one in CAPABILITIES]
    assert bench.registry.engines(EngineFilter(limit=2)) == engines[:2:-1]


def test_qualifications_say_which_still_count(bench: Workbench) -> None:
    engine = gpu(bench, "9.0", "12.9")
    for driver in DRIVERS[:2]:
        bench.judge(engine, Result.PASS, on(driver))
    bench.judge(engine, Result.FAIL, on(DRIVERS[0]))
    found = {one.environment: one.current for one in bench.registry.qualifications(engine.digest)}
    assert found == {on(DRIVERS[0]): False, on(DRIVERS[1]): True}


def test_the_nearest_engine_differs_in_the_fewest_hard_fields(bench: Workbench) -> None:
    far = gpu(bench, "8.9", "12.4", driver="570.86.10")
    near = gpu(bench, "9.0", "12.4", driver="570.86.10")
    wanted = EngineKey.of(**{**near.key.hard, "cuda_runtime": "12.9"}, driver="580.95.05")
    first, second = bench.registry.nearest(wanted)
    assert (first.engine, second.engine) == (near, far)
    assert [(one.layer, one.field, one.a, one.b) for one in first.differences] == [
        (Layer.HARD, "cuda_runtime", "12.9", "12.4"),
        (Layer.SOFT, "driver", "580.95.05", "570.86.10"),
    ]
    assert (second.count(Layer.HARD), second.count(Layer.SOFT)) == (2, 1)


def test_of_equally_near_engines_the_newest_comes_first(bench: Workbench) -> None:
    engines = [gpu(bench, one, "12.9") for one in CAPABILITIES]
    wanted = EngineKey.of(**{**engines[0].key.hard, "compute_capability": "7.5"})
    assert [one.engine for one in bench.registry.nearest(wanted, limit=9)] == engines[::-1]


def test_with_a_limit_the_nearest_is_kept_though_others_are_newer(bench: Workbench) -> None:
    near = gpu(bench, "9.0", "12.9")
    for one in CAPABILITIES[2:]:
        gpu(bench, one, "12.4")
    wanted = EngineKey.of(**{**near.key.hard, "tensorrt": "10.14.1.48"})
    assert [one.engine for one in bench.registry.nearest(wanted, limit=1)] == [near]


def test_without_an_engine_of_these_weights_any_is_compared(bench: Workbench) -> None:
    engine = gpu(bench, "9.0", "12.9")
    wanted = cpu_key(weights=f"sha256:{'7' * 64}")
    (found,) = bench.registry.nearest(wanted)
    assert found.engine == engine
    assert "weights" in {one.field for one in found.differences}


def test_an_empty_catalogue_has_nothing_near(bench: Workbench) -> None:
    assert bench.registry.nearest(cpu_key()) == []


def test_a_channel_resolves_to_the_engine_for_the_hardware(bench: Workbench) -> None:
    ours = gpu(bench, "9.0", "12.9")
    bench.judge(ours, Result.PASS, H100)
    bench.registry.set_channel("prod", ours.digest, H100, actor="anna")
    found = bench.registry.resolve("prod", "smollm2-135m", H100)
    assert (found.engine, found.decision.rule) == (ours, "qualified")
    newer = bench.registry.resolve("prod", "smollm2-135m", on("590.48.01"))
    assert (newer.engine, newer.decision.rule) == (ours, "not-qualified-here")


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(H100, cuda_runtime="13.0"),
        replace(H100, product="NVIDIA L40S", compute_capability="8.9"),
    ],
    ids=["another CUDA", "another GPU"],
)
def test_a_channel_without_an_engine_for_the_hardware_says_so(
    bench: Workbench, elsewhere: GpuEnvironment
) -> None:
    ours = gpu(bench, "9.0", "12.9")
    bench.judge(ours, Result.PASS, H100)
    bench.registry.set_channel("prod", ours.digest, H100, actor="anna")
    with pytest.raises(RecordNotFoundError, match="no engine for this hardware") as caught:
        bench.registry.resolve("prod", "smollm2-135m", elsewhere)
    assert caught.value.actual == "engines for cpu"
    with pytest.raises(RecordNotFoundError, match="no such channel"):
        bench.registry.resolve("canary", "smollm2-135m", H100)


def test_rows_without_a_version_are_in_no_range(bench: Workbench) -> None:
    bench.publish()
    assert bench.registry.engines(EngineFilter(cuda=VersionRange.parse(">=0"))) == []
