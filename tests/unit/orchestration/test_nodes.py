"""What this node is to an engine: nothing is said of a GPU of which it cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.interface import NOT_SUPPORTED, Device, DriverState, MigSlice, Scan
from enginekeeper.orchestration.keys import Host
from enginekeeper.orchestration.nodes import ThisNode
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import H100, gpu_key, publish_for_gpu
from tests.factories.inventories import device

UNREADABLE = device(1, mig=None, unread={"mig": "Insufficient Permissions"})
SPLIT = device(2, mig=True, slices=(MigSlice("MIG-1", "1g.10gb"),))
Having = Callable[..., ThisNode]


class StandIn:
    """An NVML that shows some GPUs."""

    simulated = False

    def __init__(self, *devices: Device) -> None:
        self._devices = devices

    def driver(self) -> DriverState:
        return DriverState(H100.driver, H100.cuda_driver)

    def scan(self) -> Scan:
        return Scan(self._devices)


@pytest.fixture
def having(site: Site, monkeypatch: pytest.MonkeyPatch) -> Having:
    """Returns this node, as it is with some GPUs."""

    def with_gpus(*devices: Device) -> ThisNode:
        module = "enginekeeper.orchestration.nodes.open_nvml"
        monkeypatch.setattr(module, lambda: StandIn(*devices))
        return ThisNode(site.bench)

    return with_gpus


@pytest.mark.parametrize("devices", [(UNREADABLE,), (device(0), UNREADABLE), (SPLIT, UNREADABLE)])
def test_an_engine_meets_no_gpu_of_which_nobody_can_tell_how_it_is_split(
    having: Having, devices: tuple[Device, ...]
) -> None:
    with pytest.raises(UnavailableError, match="whether a GPU is split") as caught:
        having(*devices).meets(gpu_key("w"))
    assert (caught.value.where, "Insufficient Permissions" in str(caught.value)) == ("GPU 1", True)


def test_slices_that_cannot_be_read_are_not_taken_for_all_of_them(having: Having) -> None:
    unread = device(0, mig=True, slices=SPLIT.slices, unread={"slices": "Unknown Error"})
    with pytest.raises(UnavailableError, match="whether a GPU is split"):
        having(unread).meets(gpu_key("w", mig_profile="1g.10gb"))


def test_a_gpu_that_knows_no_slices_is_whole_and_one_of_another_product_is_not_asked(
    having: Having,
) -> None:
    plain = device(0, mig=None, unread={"mig": NOT_SUPPORTED})
    other = device(1, "NVIDIA L4", mig=None, unread={"mig": "Unknown Error"})
    assert having(plain, other).meets(gpu_key("w")) == H100


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        (Host("linux", "x86_64", ()), "qualified"),
        (Host("linux", "aarch64", ()), "incompatible"),
        (Host("windows", "x86_64", ()), "incompatible"),
    ],
)
def test_the_gate_is_closed_on_a_host_that_an_engine_was_not_built_for(
    site: Site, tmp_path: Path, having: Having, host: Host, rule: str
) -> None:
    engine = publish_for_gpu(site, variants_of(tmp_path)[0], H100)
    site.bench.registry.set_channel("prod", engine.digest, H100, actor="anna")
    node = having(device(0))
    vars(node.bench)["host"] = host
    assert node.gate(engine).rule == rule
    assert node.resolve(engine.model_name, "prod").decision.rule == rule
