"""What GPU Feature Discovery and dcgm-exporter tell: read as they write it, and no more than it.

The texts are written after their documentation (formats in `enginekeeper.fleet.discovery`), with
made-up GPUs; no exporter has run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.discovery import Ingested, ingesting, read_labels
from enginekeeper.fleet.interface import DriverState, LostDevice, MigSlice

LABELS = """nvidia.com/cuda.driver-version.full=580.95.05
nvidia.com/cuda.driver-version.major=580
nvidia.com/cuda.runtime-version.full=13.0
nvidia.com/gfd.timestamp=1764115200
nvidia.com/gpu.compute.major=9
nvidia.com/gpu.compute.minor=0
nvidia.com/gpu.count=2
nvidia.com/gpu.memory=81559
nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3
nvidia.com/mig.capable=true
nvidia.com/mig.strategy=single
feature.node.kubernetes.io/pci-10de.present=true
"""
WHO = (
    'gpu="{n}",UUID="GPU-{n}",pci_bus_id="00000000:0{n}:00.0",device="nvidia{n}",'
    'modelName="NVIDIA H100 80GB HBM3",Hostname="a",DCGM_FI_DRIVER_VERSION="580.95.05"'
)


def metrics(xid: int = 0, more: str = "") -> str:
    lines = ["# HELP DCGM_FI_DEV_FB_FREE Framebuffer memory free (in MiB).",
             "# TYPE DCGM_FI_DEV_FB_FREE gauge"]  # fmt: skip
    for n in (1, 0):
        who = WHO.format(n=n)
        lines += [f"DCGM_FI_DEV_FB_FREE{{{who}}} 81000", f"DCGM_FI_DEV_FB_USED{{{who}}} 559",
                  f'DCGM_FI_DEV_XID_ERRORS{{{who},err_code="0"}} {xid if n else 0}',
                  f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{who}}} {n}"]  # fmt: skip
    return "\n".join([*lines, more, ""])


def labels(text: str = LABELS) -> dict[str, str]:
    pairs = (line.removeprefix("nvidia.com/").split("=") for line in text.splitlines())
    return {name: value for name, value in pairs if not name.startswith("feature")}


def test_labels_tell_driver_cuda_and_gpus_that_are_alike(tmp_path: Path) -> None:
    file = tmp_path / "gfd"
    file.write_text(LABELS)
    found = ingesting(file, None, lambda _: "", ())()
    assert found.driver() == DriverState("580.95.05", "13.0")
    first, second = found.scan().devices
    assert (first.product, first.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert (first.memory_bytes, second.uuid) == (81559 * 2**20, "gfd:1")
    assert "no single GPU" in first.unread["uuid"]
    assert first.vbios is None
    assert "not told" in first.unread["vbios"]


def test_labels_of_older_versions_tell_the_same() -> None:
    old = Ingested({
        "cuda.driver.major": "550", "cuda.driver.minor": "107", "cuda.driver.rev": "02",
        "cuda.runtime.major": "12", "cuda.runtime.minor": "4", "gpu.count": "1",
        "gpu.compute.major": "8", "gpu.compute.minor": "9", "gpu.product": "Some-GPU-SHARED",
    }, None)  # fmt: skip
    assert old.driver() == DriverState("550.107.02", "12.4")
    (device,) = old.scan().devices
    assert (device.product, device.memory_bytes) == ("Some-GPU", None)


def test_a_node_without_gpus_has_no_driver() -> None:
    assert Ingested({}, None).driver() is None
    assert Ingested({}, None).scan().devices == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"}, "slices"),
        ({"mig.strategy": "mixed"}, "slices"),
        ({"gpu.count": "many"}, "GPUs"),
        ({"gpu.count": "100000"}, "GPUs"),
        ({"gpu.compute.major": ""}, "compute capability"),
    ],
)
def test_labels_that_do_not_tell_what_engines_need_are_no_guess(
    change: dict[str, str], words: str
) -> None:
    with pytest.raises(UnavailableError, match=words):
        Ingested({**labels(), **change}, None).scan()


def test_labels_without_a_driver_are_a_problem_and_no_missing_gpu() -> None:
    found = labels()
    del found["cuda.driver-version.full"]
    with pytest.raises(UnavailableError, match="no driver"):
        Ingested(found, None).driver()


def test_dcgm_tells_each_gpu_by_itself() -> None:
    first, second = Ingested(labels(), metrics(xid=31)).scan().devices
    assert (first.uuid, first.index, first.pci) == ("GPU-0", 0, "00000000:00:00.0")
    assert (first.product, first.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert (first.memory_bytes, first.rows_failed, first.xid) == (81559 * 2**20, False, None)
    assert (second.uuid, second.rows_failed, second.xid) == ("GPU-1", True, 31)


def test_a_gpu_that_fell_off_the_bus_is_lost() -> None:
    found = Ingested(labels(), metrics(xid=79)).scan()
    assert [one.uuid for one in found.devices] == ["GPU-0"]
    assert found.lost == (
        LostDevice(1, "Xid 79, as dcgm-exporter tells: it fell off the bus"),
    )  # fmt: skip


def test_slices_are_named_by_their_gpu() -> None:
    who = WHO.format(n=0) + ',GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"'
    found = Ingested(labels(), metrics(more=f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{who}}} 0.5"))
    first, second = found.scan().devices
    assert (first.mig, first.slices) == (True, (MigSlice("GPU-0/gi7", "1g.10gb"),))
    assert second.mig is False


def test_blank_values_and_other_lines_are_passed_over() -> None:
    who = WHO.format(n=0)
    text = "\n".join([
        f"DCGM_FI_DEV_FB_FREE{{{who}}} 9223372036854775794", f"DCGM_FI_DEV_FB_USED{{{who}}} NaN",
        f"DCGM_FI_DEV_FB_USED{{{who}}} x", "garbage", "DCGM_X{", "go_goroutines 5",
        f"DCGM_FI_DEV_SM_CLOCK{{{who}}} 210 1764115200",
    ])  # fmt: skip
    (device,) = Ingested(labels(), text).scan().devices
    assert device.memory_bytes is None


def test_an_exporter_that_names_no_gpu_is_a_problem() -> None:
    with pytest.raises(UnavailableError, match="no GPU"):
        Ingested(labels(), "go_goroutines 5\n").scan()


def test_an_exporter_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "gfd"
    file.write_text(LABELS)

    def silent(*_arguments: object, **_more: object) -> str:
        raise UnavailableError("does not answer")

    with pytest.raises(UnavailableError, match="does not answer"):
        ingesting(file, "http://x", silent, ())()


def test_labels_of_another_driver_than_is_loaded_are_a_problem(tmp_path: Path) -> None:
    file, loaded = tmp_path / "gfd", tmp_path / "sys" / "module" / "nvidia" / "version"
    file.write_text(LABELS)
    loaded.parent.mkdir(parents=True)
    loaded.write_text("580.95.05\n")
    opened = ingesting(file, None, lambda _: "", (tmp_path / "none", tmp_path))
    assert opened().driver() == DriverState("580.95.05", "13.0")
    loaded.write_text("595.71.05\n")
    with pytest.raises(UnavailableError, match="another driver") as caught:
        opened()
    assert (caught.value.actual, caught.value.expected) == ("580.95.05", "595.71.05")


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda _: None, UnavailableError),
        (lambda file: file.mkdir(), UnavailableError),
        (lambda file: file.write_bytes(b"\xff"), InputError),
        (lambda file: file.write_text("nvidia.com/x=\x1b[2J\n"), InputError),
        (lambda file: file.write_text("a" * 70_000), InputError),
    ],
)
def test_what_is_no_file_of_labels_is_said(
    tmp_path: Path, write: Callable[[Path], object], error: type[Exception]
) -> None:
    write(tmp_path / "gfd")
    with pytest.raises(error):
        read_labels(tmp_path / "gfd")


@given(st.text(alphabet='DCGM_FI{}="\\,\n 0123abUUID', max_size=200))
def test_any_text_is_read_or_a_problem(text: str) -> None:
    try:
        Ingested(labels(), f'DCGM_FI_DEV_FB_USED{{UUID="GPU-0"}} 1\n{text}').scan()
    except UnavailableError:
        return
