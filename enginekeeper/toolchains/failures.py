"""Reads the end of a failed step's log and says what can be done about it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from enginekeeper.toolchains.catalogue import SIMULATED
from enginekeeper.toolchains.errors import (
    DiagnosedStepError,
    FailedStepError,
    StepCrashedError,
    StepDiskFullError,
    StepKilledError,
    StepPlace,
)

_TAIL = 16 * 1024  # bytes; a traceback of torch is a few kilobytes

_LOG = 4 * 1024 * 1024
"""Bytes of a builder's log that are searched for a cause; a stack of TensorRT-LLM is long."""

_KILLED_INSIDE = 128 + signal.SIGKILL
"""What a container runtime ends with when its step was killed: the signal was not for itself."""

_DIAGNOSED = "tensorrt-llm-"
"""Toolchains whose logs the table of patterns is about."""

# Libraries turn the error number into text in their own way: safetensors writes
# "I/O error: No space left on device (os error 28)", torch "[enforce fail at inline_container.cc"
# after "No space left on device".
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")

# That of /dev/shm is memory, and its want has a cause of its own.
_NO_DISK = re.compile(r"/dev/shm|shared memory|NCCL WARN")  # noqa: S108 - words of a log

_REMEDIES = (
    (
        re.compile(r"ModuleNotFoundError|cannot open shared object file|undefined symbol"),
        "the toolchain is damaged: enginekeeper toolchain sync {toolchain}",
    ),
    (
        re.compile(r"MemoryError|can't allocate memory|bad_alloc|CUDA out of memory"),
        "memory ran out: close other programs, or use smaller limits or a smaller model",
    ),
    (
        re.compile(r"InvalidCxxCompiler|No working C\+\+ compiler|g\+\+: (command )?not found"),
        "install a C++ compiler (g++) or set CXX",
    ),
)


def explain_exit(place: StepPlace, status: int) -> FailedStepError:
    """Returns the error for a step that ended with another status than 0."""
    tail = _tail(place.log)
    if status == -signal.SIGKILL:
        return _killed(place, tail)
    if _says_full(tail):
        return StepDiskFullError(
            "could not write its files: the disk is full",
            place,
            actual=_last_line(tail),
            remedy="free some space and run again: finished stages are kept",
        )
    if (error := _diagnosed(place)) is not None:
        return error
    if status == _KILLED_INSIDE:
        return _killed(place, tail)
    return StepCrashedError(
        f"crashed ({_describe(status)})",
        place,
        actual=_last_line(tail),
        expected="exit status 0",
        remedy=_remedy(tail, place),
    )


def _killed(place: StepPlace, tail: str) -> StepKilledError:
    return StepKilledError(
        "was killed from outside (SIGKILL)",
        place,
        actual=_last_line(tail),
        remedy="most often the kernel, for want of memory: see `dmesg`; "
        "close other programs or use a smaller model, then run again",
    )


def _says_full(tail: str) -> bool:
    return any(_DISK_FULL.search(line) and not _NO_DISK.search(line) for line in tail.split("\n"))


def _diagnosed(place: StepPlace) -> DiagnosedStepError | None:
    if not place.toolchain.removeprefix(SIMULATED).startswith(_DIAGNOSED):
        return None
    from enginekeeper.toolchains.taxonomy import diagnose  # noqa: PLC0415 - pydantic takes a while

    diagnosis = diagnose(_tail(place.log, _LOG).replace("\r", "\n"))
    if diagnosis is None:
        return None
    remedy = diagnosis.pattern.remedy.replace("NAME", place.toolchain)
    return DiagnosedStepError(place, diagnosis, remedy)


def _tail(log: Path, most: int = _TAIL) -> str:
    try:
        with log.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - most))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""


def _last_line(tail: str) -> str:
    """Returns the last line that says something; of a traceback that is the exception."""
    lines = [line.strip() for line in tail.replace("\r", "\n").split("\n")]
    spoken = [line for line in lines if line]
    return spoken[-1][:500] if spoken else "nothing in the log"


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _remedy(tail: str, place: StepPlace) -> str:
    for pattern, remedy in _REMEDIES:
        if pattern.search(tail):
            return remedy.format(toolchain=place.toolchain)
    return f"read {place.log}"
