"""How a step can fail: one class for each thing the reader can do about it.

Each names the step, its toolchain and its log.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enginekeeper.errors import StepError

if TYPE_CHECKING:
    from enginekeeper.toolchains.taxonomy import Diagnosis


@dataclass(frozen=True)
class StepPlace:
    """Which step failed, and where to read what it said."""

    step: str
    toolchain: str
    log: Path

    def __str__(self) -> str:
        return f"step {self.step} ({self.toolchain}), log {self.log}"


class FailedStepError(StepError):
    """A step that did not deliver; `place` says which."""

    def __init__(
        self,
        what: str,
        place: StepPlace,
        *,
        actual: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.place = place
        super().__init__(what, where=str(place), actual=actual, expected=expected, remedy=remedy)


class StepCrashedError(FailedStepError):
    """The step ended with a status above 0 or by a signal other than SIGKILL."""


class DiagnosedStepError(StepCrashedError):
    """The step crashed, and its log says why; `group` names the kind of cause."""

    def __init__(self, place: StepPlace, diagnosis: Diagnosis, remedy: str) -> None:
        self.group = str(diagnosis.pattern.group)
        self.pattern = diagnosis.pattern.id
        self.log = list(diagnosis.evidence)
        super().__init__(diagnosis.pattern.cause, place, actual=diagnosis.line, remedy=remedy)

    def __str__(self) -> str:
        """Adds the lines of the log that decided."""
        return "\n".join([super().__str__(), *(f"  log:      {line}" for line in self.log)])

    def as_dict(self) -> dict[str, object]:
        """Adds the kind of cause, the pattern that knew it, and the lines that decided."""
        return {
            **super().as_dict(),
            "group": self.group,
            "pattern": self.pattern,
            "log": self.log,
        }


class StepKilledError(FailedStepError):
    """Somebody killed the step: the kernel for want of memory, or a person."""


class StepTimeoutError(FailedStepError):
    """The step was still running at its time limit and was killed."""


class StepDiskFullError(FailedStepError):
    """The step, or its log, could not be written."""


class MalformedResultError(FailedStepError):
    """The step ended well but left no result, or one that is not in the agreed form."""


class StepRefusedError(FailedStepError):
    """The step looked at its input and says why it will not work with it."""

    def __init__(
        self,
        what: str,
        place: StepPlace,
        *,
        kind: str,
        subject: str | None = None,
        actual: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.kind = kind
        self.subject = subject
        subject_text = "" if subject is None else f"{subject}: "
        super().__init__(
            f"{subject_text}{what}", place, actual=actual, expected=expected, remedy=remedy
        )

    def as_dict(self) -> dict[str, object]:
        """Adds the kind of refusal and the file or field it is about."""
        return {**super().as_dict(), "kind": self.kind, "subject": self.subject}
