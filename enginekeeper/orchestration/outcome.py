"""What became of each variant: the typed results of the build flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from registry.errors import DiagnosedError, kind_named


class Ending(StrEnum):
    """How a variant ended."""

    REUSED = "reused"
    JUDGED = "judged"
    EXPORTED = "exported"
    REFUSED = "refused"
    ELSEWHERE = "elsewhere"
    """To be done where the GPU is; nothing was tried here."""

    FAILED = "failed"


@dataclass(frozen=True)
class Failure:
    """A known error that ended a variant, or kept its engine out of a channel."""

    family: type[DiagnosedError]
    """The error's class: decides the exit code."""

    says: Mapping[str, object]
    """The error's fields, as JSON values."""

    @classmethod
    def of(cls, error: DiagnosedError) -> Failure:
        """Keeps what an error says, without the error itself: not every error can be pickled."""
        return cls(type(error), error.as_dict())


@dataclass(frozen=True)
class Outcome:
    """One variant's end: an engine with its verdict, or why there is none."""

    variant: str
    ending: Ending
    result: str | None
    """`pass`, `fail` or `inconclusive`; None where nothing was judged."""

    summary: str
    engine: str | None = None
    """Digest of the engine."""

    path: str | None = None
    """Where the engine's documents lie in the artifact store."""

    fidelity: str | None = None
    quality: str | None = None
    channel: str | None = None
    """What happened when it was put into the channel asked for."""

    refusal: Failure | None = None
    """Why that channel refused it."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage that was made in this run; stages that were reused are absent."""

    simulated: bool = False
    """Whether a double made the engine, or would have: it proves no GPU."""

    serving_bundle: bool = False
    """Whether it is a vLLM serving bundle and no engine."""

    failure: Failure | None = None
    """The error that ended the variant; there if and only if the ending is `failed`."""

    def __post_init__(self) -> None:
        """Raises AssertionError for a failure without its error: it would have no exit code."""
        if (self.failure is None) is (self.ending is Ending.FAILED):
            raise AssertionError(f"{self.variant} ended as {self.ending} with {self.failure}")

    def as_dict(self) -> dict[str, Any]:
        """Returns the outcome as JSON values; errors are what their failures say."""
        document = asdict(self)
        failure, refusal = document.pop("failure"), document.pop("refusal")
        return {**document, "error": _says(failure), "channel_error": _says(refusal)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Outcome:
        """Rebuilds an outcome from its JSON values, which another process wrote."""
        fields = dict(document)
        failure, refusal = (_failure(fields.pop(name)) for name in ("error", "channel_error"))
        ending = Ending(fields.pop("ending"))
        return cls(**fields, ending=ending, failure=failure, refusal=refusal)


def _says(failure: Mapping[str, Any] | None) -> Any:  # noqa: ANN401 - any JSON value
    return None if failure is None else failure["says"]


def _failure(says: Mapping[str, Any] | None) -> Failure | None:
    return None if says is None else Failure(kind_named(str(says["error"])), says)
