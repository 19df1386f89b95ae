"""The rules against the tables of NVIDIA's documents, retyped here row by row.

The sources are those that `data/cuda.json` names; the tables here are not read from it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from enginekeeper.cli._release_text import release_document
from enginekeeper.compatibility.cuda import cuda_of_driver, driver_floor, toolkit_driver
from enginekeeper.compatibility.decision import Decision, decide, place_rules
from enginekeeper.compatibility.places import Place
from enginekeeper.compatibility.versions import older
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.profiles import toolchain_profiles
from registry.environments import GpuEnvironment
from registry.keys import EngineKey

A100 = GpuEnvironment("NVIDIA A100-SXM4-80GB", "8.0", "12.9", "12.9", "575.57.08")

# CUDA release notes, toolkit and driver versions (Linux x86_64)
TOOLKITS = [
    ("11.7", "515.43.04 515.48.07"), ("11.8", "520.61.05"), ("12.0", "525.60.13 525.85.12"),
    ("12.1", "530.30.02 530.30.02"), ("12.2", "535.54.03 535.86.09 535.104.05"),
    ("12.3", "545.23.06 545.23.08"), ("12.4", "550.54.14 550.54.15"),
    ("12.5", "555.42.02 555.42.06"), ("12.6", "560.28.03 560.35.03 560.35.03 560.35.05"),
    ("12.8", "570.26 570.124.06"), ("12.9", "575.51.03 575.57.08"),
    ("13.0", "580.65.06 580.82.07 580.95.05"), ("13.1", "590.44.01 590.48.01"),
    ("13.2", "595.45.04 595.58.03 595.71.05"), ("13.3", "610.43.02 610.43.02"),
]  # fmt: skip

# Triton's support matrix: container, TensorRT-LLM, TensorRT, CUDA, driver listed
CONTAINERS = [
    ("24.05", "0.9.0", "10.0.1.6", "12.3.2", "545.23.08"),
    ("24.06", "0.10.0", "10.0.1", "12.4.0", "550.54.14"),
    ("24.07", "0.11.0", "10.1.0", "12.4.1", "550.54.15"),
    ("24.08", "0.12.0", "10.3.0", "12.5.1", "555.42.06"),
    ("24.09", "0.13.0", "10.4.0", "12.5.1", "555.42.06"),
    ("24.10", "0.14.0", "10.4.0", "12.5.1", "555.42.06"),
    ("24.11", "0.15.0", "10.6.0", "12.6.3", "555.42.06"),
    ("24.12", "0.16.0", "10.7.0", "12.6.3", "560.35.05"),
    ("25.01", "0.17.0", "10.8.0.43", "12.8.0", "570.86.10"),
    ("25.06", "0.20.0", "10.10.0.31", "12.9.0", "575.51.03"),
    ("25.07", "0.20.0", "10.10.0.31", "12.9.0", "575.51.03"),
    ("25.08", "0.21.0", "10.11.0.33", "12.9.0", "575.51.03"),
    ("25.09", "1.0.0", "10.11.0.33", "12.9.1", "575.57.08"),
    ("25.10", "1.0.0", "10.11.0.33", "12.9.1", "575.57.08"),
    ("25.11", "1.0.3.2510", "10.13.3.9", "13.0.2", "580.95.05"),
    ("25.12", "1.1.0", "10.13.3.9", "13.0.2", "580.95.05"),
]

# developer.nvidia.com/cuda-gpus
CAPABILITIES = {
    "8.0": ("A100", "A30"), "8.6": ("A40", "A10"), "8.9": ("L4", "L40", "L40S"),
    "9.0": ("H100", "H200", "GH200"), "10.0": ("B200", "GB200"), "10.3": ("B300",),
    "12.0": ("RTX PRO 6000",), "12.1": ("GB10",),
}  # fmt: skip

# docs.nvidia.com/datacenter/tesla/drivers: branch, last day (None: has ended)
ENDS = [
    (535, date(2026, 6, 30)), (570, date(2026, 2, 28)), (580, date(2028, 6, 30)),
    (595, date(2027, 3, 31)), (610, date(2026, 8, 31)), (620, date(2029, 9, 30)),
    (550, None), (560, None), (565, None), (575, None), (525, None), (515, None), (510, None),
    (470, None),
]  # fmt: skip


def on(environment: GpuEnvironment, **known: object) -> Decision:
    """Decides about an engine that was built for exactly this GPU and runtime."""
    key = EngineKey.of(
        builder="tensorrt_llm", weights="w", gpu_product=environment.product,
        compute_capability=environment.compute_capability, cuda_runtime=environment.cuda_runtime,
        tensorrt=known.pop("tensorrt", None),
    )  # fmt: skip
    return decide(key, (), Place(environment, **known))  # type: ignore[arg-type]


def names(decision: Decision) -> set[str]:
    return {one.rule.identifier for one in decision.fired}


@pytest.mark.parametrize(("cuda", "drivers"), TOOLKITS)
def test_every_toolkit_runs_on_the_drivers_it_was_shipped_with(cuda: str, drivers: str) -> None:
    first, *_ = shipped = drivers.split()
    assert toolkit_driver(cuda) == toolkit_driver(f"{cuda}.1") == first
    for driver in shipped:
        environment = replace(A100, cuda_runtime=cuda, cuda_driver=cuda, driver=driver)
        fired = names(on(environment))
        assert not fired & {"driver-runs-cuda", "cuda-minor-compatibility"}
        assert cuda_of_driver(driver) == cuda


@pytest.mark.parametrize("cuda", ["12", "13"])
def test_of_a_cuda_without_a_minor_no_toolkit_is_known(cuda: str) -> None:
    assert toolkit_driver(cuda) is None
    gpu = replace(A100, cuda_runtime=cuda, cuda_driver="13.3", driver="610.43.02")
    assert not names(on(gpu)) & {"cuda-minor-compatibility", "gpu-needs-cuda"}


@pytest.mark.parametrize(("cuda", "drivers"), TOOLKITS)
def test_below_its_own_driver_a_toolkit_is_limited_and_below_its_major_refused(
    cuda: str, drivers: str
) -> None:
    floor = {"11": "450", "12": "525", "13": "580"}[cuda.partition(".")[0]]
    low = replace(A100, cuda_runtime=cuda, cuda_driver=cuda, driver=floor)
    below = replace(low, driver=f"{int(floor) - 1}.999.99")
    limited = "cuda-minor-compatibility" in names(on(low))
    assert limited is older(floor, drivers.split(maxsplit=1)[0])
    assert on(low).action == "revalidate"
    assert (on(below).action, driver_floor(cuda)) == ("refuse", floor)
    assert "driver-runs-cuda" in names(on(below))


@pytest.mark.parametrize(
    ("container", "release", "tensorrt", "cuda", "driver"), CONTAINERS, ids=lambda text: text
)
def test_every_container_runs_on_the_driver_that_its_row_lists(
    container: str, release: str, tensorrt: str, cuda: str, driver: str
) -> None:
    assert container
    assert release
    minor = ".".join(cuda.split(".")[:2])
    environment = replace(A100, cuda_runtime=minor, cuda_driver=minor, driver=driver)
    decision = on(environment, tensorrt=tensorrt)
    assert decision.action == "revalidate"
    limited = "cuda-minor-compatibility" in names(decision)
    assert limited is (container == "24.11")  # it lists a driver that is older than CUDA 12.6


@pytest.mark.parametrize(("capability", "words"), CAPABILITIES.items())
def test_products_have_the_capability_that_nvidia_says(
    capability: str, words: tuple[str, ...]
) -> None:
    for word in words:
        rows = [
            one
            for one in gpu_products().values()
            if f" {word} " in f" {one.product.replace('-', ' ')} "
        ]
        assert rows
        assert {str(one.compute_capability) for one in rows} == {capability}


@pytest.mark.parametrize(("branch", "last"), ENDS)
def test_a_driver_branch_ends_on_its_day(branch: int, last: date | None) -> None:
    environment = replace(A100, driver=f"{branch}.1", cuda_runtime="11.7", cuda_driver="11.7")
    ended = "driver-branch-ended"
    if last is None:
        assert ended in names(on(environment, on=date(2026, 11, 26)))
        return
    assert ended not in names(on(environment, on=last))
    assert ended in names(on(environment, on=last + timedelta(days=1)))


@pytest.mark.parametrize("branch", [465, 495, 520, 560, 565, 575, 590, 610, 615])
def test_feature_branches_are_told(branch: int) -> None:
    assert "driver-branch-short-lived" in names(on(replace(A100, driver=f"{branch}.10.01")))


@pytest.mark.parametrize("branch", [535, 550, 570, 580, 595, 620])
def test_lts_and_production_branches_are_not_short_lived(branch: int) -> None:
    assert "driver-branch-short-lived" not in names(on(replace(A100, driver=f"{branch}.10.01")))


@pytest.mark.parametrize("branch", [418, 440, 450, 460, 510, 520, 530, 545, 555])
def test_branches_without_forward_compatibility_carry_no_newer_major(branch: int) -> None:
    environment = GpuEnvironment(A100.product, "8.0", "13.0", "12.0", f"{branch}.10.01")
    assert "forward-compatibility" in names(on(environment, cuda_compat="13.0"))


@pytest.mark.parametrize("branch", [470, 525, 535, 550, 560, 570, 575])
def test_other_branches_carry_a_newer_major_with_its_package_only(branch: int) -> None:
    environment = GpuEnvironment(A100.product, "8.0", "13.0", "12.0", f"{branch}.10.01")
    assert on(environment, cuda_compat="13.0").action == "revalidate"
    assert on(environment).action == "refuse"


@pytest.mark.parametrize(
    ("capability", "first", "before"),
    [("8.9", "11.8", "11.7"), ("9.0", "11.8", "11.7"), ("10.0", "12.8", "12.6"),
     ("12.0", "12.8", "12.6")],
)  # fmt: skip
def test_a_capability_needs_the_first_cuda_that_compiles_for_it(
    capability: str, first: str, before: str
) -> None:
    gpu = replace(A100, product="p", compute_capability=capability, cuda_runtime=first)
    assert "gpu-needs-cuda" not in names(on(gpu))
    assert "gpu-needs-cuda" in names(on(replace(gpu, cuda_runtime=before)))


@pytest.mark.parametrize("capability", ["5.2", "6.1", "7.0"])
def test_what_cuda_13_dropped_keeps_cuda_12_up_to_r580(capability: str) -> None:
    gpu = replace(A100, product="p", compute_capability=capability)
    assert on(replace(gpu, driver="580.95.05", cuda_driver="13.0")).action == "revalidate"
    assert on(replace(gpu, driver="590.48.01", cuda_driver="13.1")).action == "refuse"
    assert on(replace(gpu, cuda_runtime="13.0", cuda_driver="13.0", driver="580.95.05")).action == (
        "refuse"
    )


@pytest.mark.parametrize(
    "capability",
    ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"],
)
def test_every_capability_that_nvidia_lists_from_turing_on_works_under_cuda_13(
    capability: str,
) -> None:
    newest = GpuEnvironment("p", capability, "13.2", "13.2", "595.71.05")
    assert on(newest).action == "revalidate"


@pytest.mark.parametrize(
    ("product", "capability", "cuda", "lowest", "below"),
    [
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0", "12.9", "575.57.08", "575.51.03"),
        ("NVIDIA B200", "10.0", "12.8", "570.133.20", "570.124.06"),
    ],
)
def test_a_product_with_a_driver_of_its_own_needs_all_numbers_of_it(
    product: str, capability: str, cuda: str, lowest: str, below: str
) -> None:
    gpu = GpuEnvironment(product, capability, cuda, cuda, lowest)
    assert "gpu-needs-driver" not in names(on(gpu))
    assert "gpu-needs-driver" in names(on(replace(gpu, driver=below)))


def test_the_one_product_without_mig_is_told_and_others_keep_theirs() -> None:
    server = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    split = GpuEnvironment(server, "12.0", "12.9", "12.9", "575.57.08", "1g.24gb")
    assert "product-without-mig" in names(on(split))
    assert "product-without-mig" not in names(on(replace(A100, mig_profile="1g.10gb")))


def test_cuda_13_4_comes_without_a_driver_and_so_do_branches_after_r610() -> None:
    assert toolkit_driver("13.4") is None
    assert {cuda_of_driver(driver) for driver in ("615.10.01", "616.10.01", "620.10.01")} == {None}
    under = GpuEnvironment(A100.product, "8.0", "13.4", "13.4", "620.10.01")
    assert on(under, on=date(2026, 11, 26)).action == "revalidate"
    assert "cuda-minor-compatibility" not in names(on(under))


@pytest.mark.parametrize("branch", [590, 615])
def test_new_feature_branches_without_a_date_are_not_said_to_have_ended(branch: int) -> None:
    gpu = replace(A100, driver=f"{branch}.10.01")
    assert "driver-branch-ended" not in names(on(gpu, on=date(2029, 1, 1)))


def test_every_toolchain_has_a_driver_floor_and_the_rule_names_each() -> None:
    said = {row.identifier: row.statement for row in place_rules()}["driver-runs-cuda"]
    for profile in toolchain_profiles().values():
        if profile.cuda is not None:
            floor = driver_floor(profile.cuda)
            assert floor == ("580" if profile.cuda.startswith("13") else "525")
            assert f"CUDA {profile.cuda.partition('.')[0]}.x needs R{floor} or newer" in said


def test_a_release_is_shown_with_the_driver_its_cuda_needs() -> None:
    profile = toolchain_profiles()["tensorrt-llm-1.3.0rc20"]
    assert profile.release is not None
    shown = release_document(profile, profile.release)["facts"]["driver_minimum"]
    assert (shown["value"], shown["verified"]) == ("580", False)
    assert "cuda-compatibility" in shown["source"]
