"""What flows are asked to do: a build, several of them, a wave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from registry.names import check_component


@dataclass(frozen=True)
class BuildOrder:
    """What the build flow is asked to do."""

    path: str
    """Path of the build spec."""

    only: tuple[str, ...] = ()
    """Selectors of variants; none means all."""

    skip: tuple[str, ...] = ()
    """Selectors of variants to leave out."""

    audits: bool = True
    whole_suite: bool = False
    """Whether every prompt is scored although fewer would decide."""
    retry_failed: bool = False
    """Whether builds are tried again that failed for a cause which lies in what is asked for."""
    probes: bool = False
    """Whether the engine is also asked in other batches, in chunks and token by token."""
    tokenizer: str | None = None
    """Directory of the tokenizer that will serve the engines, where none is shipped with them."""

    served: bool = False
    """Whether engines of TensorRT-LLM are asked over HTTP, as they are served: that says less."""

    triton: bool = False
    """Whether they are asked by Triton instead, as it serves them: that says as little."""

    validation_twin: bool = False
    """Whether a TensorRT engine is built again with context logits, to support its verdict."""

    locate: bool = False
    """Whether a tensor is looked for where the engine is not its recipe and the audits are clean:
    one forward pass per tensor."""
    channel: str | None = None
    engines: tuple[str, ...] = ()
    """Digests of engines to judge as they are, each in place of what its variant's plan says."""

    def __post_init__(self) -> None:
        """Raises InvalidRecordError for a name that no channel can have: hours may lie ahead."""
        if self.channel is not None:
            check_component(self.channel, where="channel")

    @property
    def over_http(self) -> bool:
        """Whether engines of TensorRT-LLM are asked as a server serves them."""
        return self.served or self.triton

    def from_anywhere(self) -> BuildOrder:
        """Returns the same order for a process that stands elsewhere."""
        tokenizer = None if self.tokenizer is None else str(Path(self.tokenizer).absolute())
        return replace(self, path=str(Path(self.path).absolute()), tokenizer=tokenizer)


@dataclass(frozen=True)
class WaveOrder:
    """What the wave flow is asked to do: to let a wave go on until it has ended or stopped."""

    wave: str
    interval_seconds: int = 60

    def from_anywhere(self) -> WaveOrder:
        """Returns itself: a wave is read from the registry."""
        return self


@dataclass(frozen=True)
class RebuildOrder:
    """What the rebuild flow is asked to do: one build after the other."""

    builds: tuple[BuildOrder, ...]

    def from_anywhere(self) -> RebuildOrder:
        """Returns the same order for a process that stands elsewhere."""
        return RebuildOrder(tuple(one.from_anywhere() for one in self.builds))


Order = BuildOrder | RebuildOrder | WaveOrder
"""What a deployment can be asked for."""
