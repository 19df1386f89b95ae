"""What every builder offers: from a checkpoint to an engine directory.

Rules:

- a builder reads the checkpoint as it is written and repairs nothing;
- it works in a step, inside its own toolchain, and imports none of it here;
- the engine appears whole or not at all; what it is bound to is said in its `engine.json` (the
  embedded builder) or by its key alone (TensorRT-LLM: its config.json names the release only).

What a builder cannot build is a rule in `enginekeeper.compatibility`; what its engines are bound to
is in `enginekeeper.orchestration.keys`.

Example:
    builder = InductorBuilder(shared_graphs=cache / "graphs")
    engine = builder.build(request, run)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from enginekeeper.toolchains.results import StepOutcome

__all__ = ["BuildRequest", "Builder", "BuiltEngine", "CompiledGraph", "RunStep", "TimingFiles"]


@dataclass(frozen=True)
class TimingFiles:
    """Where a build finds the timing cache it starts with, and leaves the one it ends with."""

    start: Path | None
    """One of exactly this GPU and software, whose signature was verified; None: there is none."""

    end: Path


@dataclass(frozen=True)
class BuildRequest:
    """One engine to be built."""

    checkpoint: Path
    output: Path
    """Where the engine directory is to appear; must not exist."""

    limits: Mapping[str, int]
    """max_batch_size, max_input_len, max_seq_len and max_num_tokens."""

    options: Mapping[str, bool | int | str] = field(default_factory=dict)
    """What the spec asks of `trtllm-build` besides; other builders take none."""

    timing: TimingFiles | None = None
    """For builders that measure kernels; the others take none."""


@dataclass(frozen=True)
class CompiledGraph:
    """One compiled graph of an engine and what it cost."""

    signature: str
    entry: str
    seconds: float
    """What compiling took when it was compiled, be it now or for an earlier engine."""

    reused: bool
    size: int
    """Bytes."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine directory and how it came about."""

    directory: Path
    seconds: float
    description: Mapping[str, Any]
    """The engine's `engine.json`, or what its step and its inspection say."""

    graphs: tuple[CompiledGraph, ...]
    versions: Mapping[str, str]
    report: Mapping[str, Any] = field(default_factory=dict)
    """What came of the build otherwise than asked, and what it took; empty where nothing did."""

    simulated: bool = False
    """Whether a double made it: it proves nothing and is never deployed."""


class RunStep(Protocol):
    """Runs a step in its toolchain; raises a StepError when it does not succeed."""

    def __call__(self, toolchain: str, step: str, job: Mapping[str, Any], /) -> StepOutcome:
        """Returns what the step answered."""
        ...


class Builder(Protocol):
    """Makes engines of one kind."""

    @property
    def kind(self) -> str:
        """The name in keys, specs and manifests."""
        ...

    @property
    def toolchain(self) -> str:
        """The toolchain its steps run in."""
        ...

    @property
    def compile_step(self) -> str:
        """The step that makes the engine."""
        ...

    def build(self, request: BuildRequest, run: RunStep) -> BuiltEngine:
        """Builds an engine; raises a StepError when the step refuses or fails."""
        ...
