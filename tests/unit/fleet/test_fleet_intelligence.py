"""What NVIDIA's Fleet Intelligence agent wrote down: read as it writes it, and no more than it.

The text has the attributes in the order, and the quotes, of writeMachineInfoCSV in
NVIDIA/fleet-intelligence-agent 24228fdf, internal/exporter/converter/csv.go, with made-up GPUs; the
agent writes GPUs in the order of a Go map, which is none. No such agent has run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet import fleet_intelligence
from enginekeeper.fleet.fleet_intelligence import (
    MachineInfo,
    machine_info_from,
    read_machine_info,
    recent,
)
from enginekeeper.fleet.interface import DriverState
from tests.fakes.users import as_nobody

GPUS = {1: "0000:45:00.0", 2: "0000:18:00.0"}
WRITTEN = """attribute_name,attribute_value
Agent Version,1.3.1-rc.1
Container Runtime Version,containerd://2.1.4
OS Image,Ubuntu 24.04.3 LTS
Kernel Version,6.8.0-87-generic
DCGM Version,4.4.1
CPU Type,Intel(R) Xeon(R) Platinum 8480C
CPU Manufacturer,GenuineIntel
CPU Architecture,amd64
CPU Logical Cores,224
Memory Total,2163989082112
CUDA Version,13.0
GPU Driver Version,580.95.05
GPU Product,NVIDIA-H100-80GB-HBM3
GPU Manufacturer,nvidia
GPU Architecture,hopper
GPU Memory,85520809984
Private IP Interface 1,"eno1 (3c:ec:ef:00:00:01, 10.0.0.17)"
Container Root Disk,/dev/nvme0n1p2
Block Device 1 Name,nvme0n1
Block Device 1 Size,3840755982336
""" + "".join(
    f"GPU {number} UUID,GPU-{number}\nGPU {number} Bus ID,{bus}\nGPU {number} SN,165{number}\n"
    f"GPU {number} Minor ID,{number}\nGPU {number} Board ID,{number}\n"
    f"GPU {number} VBIOS Version,96.00.89.00.01\nGPU {number} Chassis SN,\n"
    for number, bus in GPUS.items()
)
NOW = 1_764_172_800.0


def told(**changes: str | None) -> MachineInfo:
    rows = [line.split(",", 1) for line in WRITTEN.splitlines()[1:]]
    said = {**dict(rows), **{name.replace("_", " "): one for name, one in changes.items()}}
    return MachineInfo({name: one for name, one in said.items() if one is not None})


def write(file: Path, *, age: float = 60, text: str = WRITTEN) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (NOW - age, NOW - age))
    return file


def test_each_gpu_is_read_with_driver_and_cuda(tmp_path: Path) -> None:
    write(tmp_path / "fleetint_machine_info_20261126_160000.csv")
    found = machine_info_from(tmp_path, None, lambda _: "", lambda: NOW, (tmp_path,))()
    assert found.driver() == DriverState("580.95.05", "13.0")
    first, second = found.scan().devices
    assert (first.index, first.uuid, first.pci, first.serial) == (
        0, "GPU-2", "0000:18:00.0", "1652",
    )  # fmt: skip
    assert (second.index, second.uuid, second.vbios) == (1, "GPU-1", "96.00.89.00.01")
    assert (first.product, first.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert first.memory_bytes == 85_520_809_984


def test_what_it_does_not_say_is_none_with_its_reason() -> None:
    first, _ = told().scan().devices
    assert (first.mig, first.ecc, first.gsp_firmware) == (None, None, None)
    assert {"mig", "ecc", "gsp_firmware"} < first.unread.keys()
    assert {"vbios", "serial", "pci", "memory_bytes"}.isdisjoint(first.unread)
    silent, _ = told(GPU_2_SN="", GPU_Memory="").scan().devices
    assert (silent.serial, silent.memory_bytes) == (None, None)
    assert {"serial", "memory_bytes"} < silent.unread.keys()


@pytest.mark.parametrize(
    ("written", "expected"), [("80G", 80 * 10**9), ("1k", 1000), ("12Gi", None), ("-1", None)]
)
def test_memory_is_a_quantity_of_kubernetes(written: str, expected: int | None) -> None:
    assert told(GPU_Memory=written).scan().devices[0].memory_bytes == expected


def test_a_node_without_gpus_has_no_driver() -> None:
    none = {name: None for name in told().said if name.startswith("GPU")}
    found = MachineInfo({name: one for name, one in told().said.items() if name not in none})
    assert found.driver() is None
    assert found.scan().devices == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"GPU_Product": "NVIDIA-Graphics-Device"}, "no table"),
        ({"GPU_Product": None}, "no table"),
        ({"GPU_1_UUID": ""}, "that are none"),
        ({"GPU_1_UUID": None}, "that are none"),
        ({f"GPU_{at}_UUID": f"GPU-{at}" for at in range(100)}, "that are none"),
    ],
)
def test_what_engines_need_and_is_not_told_is_no_guess(
    changes: dict[str, str | None], words: str
) -> None:
    with pytest.raises(UnavailableError, match=words):
        told(**changes).scan()


@pytest.mark.parametrize("name", ["GPU_Driver_Version", "CUDA_Version"])
def test_gpus_without_a_driver_are_a_problem(name: str) -> None:
    with pytest.raises(UnavailableError, match="no driver"):
        told(**{name: ""}).driver()


def test_dcgm_tells_each_gpu_by_itself_with_its_slices() -> None:
    who = 'gpu="0",UUID="GPU-2",modelName="NVIDIA H100",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"'
    metrics = f"DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{who}}} 0.5\n"
    found = MachineInfo(told().said, metrics)
    (device,) = found.scan().devices
    assert (device.uuid, device.mig, device.compute_capability) == ("GPU-2", True, "9.0")
    assert found.driver() == DriverState("580.95.05", "13.0")


def test_the_newest_that_is_whole_counts(tmp_path: Path) -> None:
    write(tmp_path / "fleetint_machine_info_20261126_150000.csv", age=600)
    last = write(tmp_path / "fleetint_machine_info_20261126_155900.csv", age=60)
    write(tmp_path / "fleetint_machine_info_20261126_160000.csv", age=0, text="attribute_n")
    write(tmp_path / "fleetint_metrics_20261126_155930.csv", age=30)
    assert recent(tmp_path, NOW)[0] == last
    assert recent(last, NOW) == [last]
    later = write(tmp_path / "fleetint_machine_info_20261126_155901.csv", age=60)
    assert recent(tmp_path, NOW)[:2] == [later, last]


@pytest.mark.parametrize(
    ("age", "words"), [(3601, "too old"), (0, "no machine info"), (None, "no machine info")]
)
def test_what_is_old_or_not_whole_or_not_there_is_a_problem(
    tmp_path: Path, age: float | None, words: str
) -> None:
    if age is not None:
        write(tmp_path / "fleetint_machine_info_20261126_150000.csv", age=age)
    with pytest.raises(UnavailableError, match=words):
        recent(tmp_path, NOW)


def opened(path: Path, root: Path) -> MachineInfo:
    found = machine_info_from(path, None, lambda _: "", lambda: NOW, (path / "none", root))()
    assert isinstance(found, MachineInfo)
    return found


def test_what_was_written_under_another_driver_than_is_loaded_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "fleetint_machine_info_20261126_160000.csv")
    loaded = tmp_path / "sys" / "module" / "nvidia" / "version"
    loaded.parent.mkdir(parents=True)
    for said in (None, "580.95.05\n"):
        if said is not None:
            loaded.write_text(said)
        assert opened(tmp_path, tmp_path).driver() == DriverState("580.95.05", "13.0")
    loaded.write_text("595.71.05\n")
    with pytest.raises(UnavailableError, match="another driver") as caught:
        opened(tmp_path, tmp_path)
    assert (caught.value.actual, caught.value.expected) == ("580.95.05", "595.71.05")


def test_files_of_another_node_in_the_directory_are_a_problem(tmp_path: Path) -> None:
    others = WRITTEN.replace("GPU-1", "GPU-8").replace("GPU-2", "GPU-9")
    write(tmp_path / "fleetint_machine_info_20261126_155000.csv", age=3700, text=others)
    write(tmp_path / "fleetint_machine_info_20261126_155500.csv", age=300, text="damaged")
    fewer = WRITTEN.replace("GPU-1", "GPU-7")  # one was exchanged
    write(tmp_path / "fleetint_machine_info_20261126_155900.csv", age=120, text=fewer)
    write(tmp_path / "fleetint_machine_info_20261126_160000.csv")
    none = tmp_path / "none"
    assert len(opened(tmp_path, none).scan().devices) == 2
    write(tmp_path / "fleetint_machine_info_20261126_155800.csv", age=180, text=others)
    with pytest.raises(UnavailableError, match="several nodes"):
        opened(tmp_path, none)


def test_a_pipe_is_no_file_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "fleetint_machine_info_20261126_160000.csv"
    os.mkfifo(pipe)
    os.utime(pipe, (NOW - 60, NOW - 60))
    for place in (tmp_path, pipe):
        with pytest.raises(UnavailableError, match="no machine info"):
            recent(place, NOW)


def test_a_path_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be read"):
        recent(tmp_path / "nothing", NOW)


def test_a_directory_that_cannot_be_listed_is_no_empty_one() -> None:
    with TemporaryDirectory() as reached:  # pytest's own lets nobody else in
        Path(reached).chmod(0o755)
        place = Path(reached) / "theirs"
        write(place / "fleetint_machine_info_20261126_160000.csv")
        place.chmod(0)
        with as_nobody(), pytest.raises(UnavailableError, match="cannot be read"):
            recent(place, NOW)
        place.chmod(0o755)


def test_more_files_than_are_looked_at_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_intelligence, "_MOST_FILES", 2)
    for minute in range(2):
        write(tmp_path / f"fleetint_machine_info_20261126_16000{minute}.csv")
    assert len(recent(tmp_path, NOW)) == 2
    write(tmp_path / "fleetint_machine_info_20261126_160002.csv")
    with pytest.raises(UnavailableError, match="more than is looked at"):
        recent(tmp_path, NOW)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("attribute_name", "name"),
        lambda text: text[:-1],
        lambda text: text + "GPU 1 UUID,GPU-9\n",
        lambda text: text + "GPU 3 UUID,GPU-3,x\n",
        lambda text: text + "alone\n",
        lambda text: text + "OS,\x1b[2J\n",
        lambda text: text + 'OS Name,"open\n',
        lambda text: text + f"Note,{'a' * 2**20}\n",
        lambda _: "",
    ],
)
def test_what_is_no_machine_info_is_said(tmp_path: Path, change: Callable[[str], str]) -> None:
    with pytest.raises(InputError, match="not the machine info"):
        read_machine_info(write(tmp_path / "x.csv", text=change(WRITTEN)))


def test_bytes_that_are_no_text_are_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="not the machine info"):
        read_machine_info(tmp_path / "x.csv")
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_machine_info(tmp_path)


names = st.sampled_from(["GPU 1 UUID", "GPU 1 Bus ID", "GPU Product", "GPU Memory", "CUDA Version"])


@given(st.dictionaries(names | st.text(max_size=12), st.text(max_size=20)))
def test_any_values_are_read_or_a_problem(said: dict[str, str]) -> None:
    try:
        devices = MachineInfo(said).scan().devices
    except UnavailableError:
        return
    assert all(one.uuid and one.mig is None for one in devices)
