"""GPUs as GPU Feature Discovery and dcgm-exporter tell of them, where those run already.

Neither says all that NVML does, so what is missing is None with its reason:

- labels of GPU Feature Discovery name one product for a node, with `-` for spaces, and no single
  GPU; on a node with several products they are wrong for some;
- dcgm-exporter names each GPU, its product, the driver and the last Xid, but no CUDA version and
  no compute capability: it needs the labels, too;
- who computes on a GPU neither of them says: engines are declared at most;
- labels of another driver than the kernel has loaded were made before it, and nothing is taken.

Formats: NVIDIA/k8s-device-plugin docs/gpu-feature-discovery/README.md; NVIDIA/dcgm-exporter
etc/default-counters.csv. Read from their documentation; no exporter has been asked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.interface import Device, DriverState, LostDevice, MigSlice, Nvml, Scan
from enginekeeper.specs.gpus import gpu_products

_LABEL = re.compile(r"nvidia\.com/([A-Za-z0-9._-]+)=([^\n]*)")
_SAMPLE = re.compile(r"(DCGM_[A-Z0-9_]+)\{(.*)\} +(\S+)(?: +-?\d+)?")
_PAIR = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)",? *')
_SHARED, _SLICED = re.compile(r"-SHARED$"), re.compile(r"-MIG-[0-9]+g\.")
_FILE_BYTES, _METRICS_BYTES = 64 * 1024, 16 * 1024 * 1024
MOST_GPUS = 64
_OFF_THE_BUS = 79  # https://docs.nvidia.com/deploy/xid-errors
_NOT_THERE = "not told by GPU Feature Discovery"
_LOADED = "sys/module/nvidia/version"
"""Of the driver's kernel module, below a root: a container has it below its own, too."""


@dataclass(frozen=True)
class Ingested:
    """Answers in NVML's place from what others found out."""

    labels: Mapping[str, str]
    """Of GPU Feature Discovery, without `nvidia.com/`."""
    metrics: str | None
    """What dcgm-exporter answered; None where it is not asked."""
    simulated: bool = False

    def driver(self) -> DriverState | None:
        """Returns the driver; None on a node whose labels tell of no GPU."""
        version = self.labels.get("cuda.driver-version.full") or _joined(
            self.labels, "cuda.driver.major", "cuda.driver.minor", "cuda.driver.rev"
        )
        cuda = self.labels.get("cuda.runtime-version.full") or _joined(
            self.labels, "cuda.runtime.major", "cuda.runtime.minor"
        )
        if version is None or cuda is None:
            if "gpu.count" not in self.labels:
                return None
            raise UnavailableError("the labels name no driver and CUDA version")
        return DriverState(version, ".".join(cuda.split(".")[:2]))

    def scan(self) -> Scan:
        """Returns the GPUs: each by itself where dcgm-exporter tells of them, alike otherwise."""
        if self.metrics is not None:
            return devices_of_metrics(self.metrics, self._capability())
        sliced = _SLICED.search(self.labels.get("gpu.product", "")) is not None
        if sliced or self.labels.get("mig.strategy") == "mixed":
            raise UnavailableError(
                "the labels tell of slices and not of GPUs",
                remedy="add --dcgm, or let NVML be asked: leave --gfd out",
            )
        count = self.labels.get("gpu.count", "0")
        if not count.isdecimal() or int(count) > MOST_GPUS:
            raise UnavailableError(f"the labels say {count[:20]!r} GPUs")
        return Scan(tuple(self._alike(index) for index in range(int(count))))

    def _capability(self) -> str:
        found = _joined(self.labels, "gpu.compute.major", "gpu.compute.minor")
        if found is None:
            raise UnavailableError("the labels name no compute capability")
        return found

    def _alike(self, index: int) -> Device:
        memory = self.labels.get("gpu.memory", "")
        unread = dict.fromkeys(("vbios", "gsp_firmware", "serial", "pci", "ecc"), _NOT_THERE)
        return Device(
            index=index, uuid=f"gfd:{index}",
            product=named_product(self.labels.get("gpu.product", "unknown")),
            compute_capability=self._capability(),
            memory_bytes=int(memory) * 2**20 if memory.isdecimal() else None,
            mig=False, vbios=None, unread={**unread, "uuid": "the labels name no single GPU"},
        )  # fmt: skip


def ingesting(
    labels: Path, metrics: str | None, get: Callable[..., str], roots: Sequence[Path]
) -> Callable[[], Nvml]:
    """Returns what opens NVML's stand-in: reads the file, and asks the exporter, each time anew.

    Which driver is loaded says the first of the roots that does.
    """

    def opened() -> Nvml:
        told = None if metrics is None else ask_metrics(metrics, get)
        found = Ingested(read_labels(labels), told)
        if (driver := found.driver()) is not None:
            check_driver(driver.version, labels, roots)
        return found

    return opened


def check_driver(told: str | None, where: Path, roots: Sequence[Path]) -> None:
    """Raises UnavailableError where the kernel has loaded another driver than somebody wrote."""
    version = _loaded(roots)
    if told and version and told != version:
        raise UnavailableError(
            "the kernel has loaded another driver than was written there",
            where=str(where), actual=told, expected=version,
            remedy="let whoever wrote it look again: a driver may have been exchanged since",
        )  # fmt: skip


def _loaded(roots: Sequence[Path]) -> str | None:
    """Returns the version of the driver that the kernel has loaded; None: none, or nobody says."""
    for root in roots:
        with suppress(OSError):
            return (root / _LOADED).read_text(encoding="ascii", errors="replace").strip()
    return None


def ask_metrics(metrics: str, get: Callable[..., str]) -> str:
    """Returns what dcgm-exporter answers at a URL; raises UnavailableError."""
    return get(metrics, limit=_METRICS_BYTES)


def read_labels(file: Path) -> dict[str, str]:
    """Returns the labels in a file of GPU Feature Discovery; raises UnavailableError, InputError.

    Labels of others in it are passed over.
    """
    text = text_of(file, _FILE_BYTES, "the labels")
    if text is None or not text.replace("\n", "").isprintable():
        raise InputError(
            "not a file of labels", where=str(file), expected="lines of nvidia.com/NAME=VALUE"
        )
    return {found[1]: found[2] for line in text.splitlines() if (found := _LABEL.fullmatch(line))}


def text_of(file: Path, most: int, what: str) -> str | None:
    """Returns the text that others wrote into a file; None for no UTF-8, or too many bytes.

    Raises UnavailableError where it cannot be read.
    """
    try:
        with file.open("rb") as handle:
            data = handle.read(most + 1)
    except OSError as error:
        raise UnavailableError(
            f"{what} cannot be read: {error.strerror}", where=str(file)
        ) from error
    try:
        return data.decode("utf-8") if len(data) <= most else None
    except UnicodeDecodeError:
        return None


def devices_of_metrics(text: str, capability: str) -> Scan:
    """Returns the GPUs that dcgm-exporter names; every sample of one says who it is."""
    found: dict[str, _Told] = {}
    for metric, labels, value in _samples(text):
        uuid = labels.get("UUID")
        if uuid is not None and (uuid in found or len(found) < MOST_GPUS):
            found.setdefault(uuid, _Told(labels)).add(metric, labels, value)
    if not found:
        raise UnavailableError("dcgm-exporter names no GPU")
    told = sorted(found.items(), key=lambda one: one[1].index)
    return Scan(
        tuple(one.device(uuid, capability) for uuid, one in told if one.xid != _OFF_THE_BUS),
        tuple(LostDevice(one.index, f"Xid {one.xid}, as dcgm-exporter tells: it fell off the bus")
              for _, one in told if one.xid == _OFF_THE_BUS),
    )  # fmt: skip


class _Told:
    """What the samples of one GPU add up to."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._values: dict[str, float] = {}
        self._slices: dict[str, str] = {}

    def add(self, metric: str, labels: Mapping[str, str], value: float) -> None:
        self._values.setdefault(metric, value)
        if "GPU_I_ID" in labels:
            self._slices[labels["GPU_I_ID"]] = labels.get("GPU_I_PROFILE", "unknown")

    @property
    def index(self) -> int:
        number = self._labels.get("gpu", "")
        return int(number) if number.isdecimal() else MOST_GPUS

    @property
    def xid(self) -> int | None:
        found = self._values.get("DCGM_FI_DEV_XID_ERRORS")
        return None if not found else int(found)

    def device(self, uuid: str, capability: str) -> Device:
        memory = [self._values.get(f"DCGM_FI_DEV_FB_{part}") for part in ("FREE", "USED")]
        known = [one for one in memory if one is not None]
        failed = self._values.get("DCGM_FI_DEV_ROW_REMAP_FAILURE")
        silent = dict.fromkeys(("vbios", "gsp_firmware", "serial"), "not told by dcgm-exporter")
        slices = tuple(
            MigSlice(f"{uuid}/gi{number}", profile) for number, profile in self._slices.items()
        )
        return Device(
            index=self.index, uuid=uuid, product=self._labels.get("modelName", "unknown"),
            compute_capability=capability,
            memory_bytes=None if len(known) != len(memory) else int(sum(known)) * 2**20,
            mig=bool(slices), vbios=None, pci=self._labels.get("pci_bus_id"),
            rows_failed=None if failed is None else bool(failed), xid=self.xid,
            slices=slices, unread=silent,
        )  # fmt: skip


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yields the samples of Prometheus's text format; a line that is none, or no number, is not.

    DCGM writes a number near 2^63 for what it does not know (dcgm_structs.h, DCGM_INT64_BLANK).
    """
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line.strip())
        if found is None or not line.isprintable():
            continue
        try:
            value = float(found[3])
        except ValueError:
            continue
        if 0 <= value < 2**62:
            labels = {name: _plain(said) for name, said in _PAIR.findall(found[2])}
            yield found[1], labels, value


def _plain(text: str) -> str:
    return text.replace(r"\"", '"').replace(r"\\", "\\")


def named_product(label: str) -> str:
    """Returns NVML's name of a product, as far as the table of GPUs knows it; the label otherwise.

    The labels have `-` for spaces, and an end that says how the GPU is shared.
    """
    bare = _SHARED.sub("", label)
    names = {one.product.replace(" ", "-"): one.product for one in gpu_products().values()}
    return names.get(bare, bare)


def _joined(labels: Mapping[str, str], *names: str) -> str | None:
    parts = [labels.get(name, "") for name in names]
    given = [one for one in parts if one]
    return ".".join(given) if given and parts[0] else None
