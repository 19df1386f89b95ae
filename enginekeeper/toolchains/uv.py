"""Starts uv, the one program that installs and resolves, and says plainly why it failed."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from enginekeeper.errors import UnavailableError
from enginekeeper.toolchains.processes import Command, run_command
from registry.errors import DiskFullError, IntegrityError

Listener = Callable[[str], None]

_PASSED = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME",
    "XDG_CONFIG_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy", "NETRC",
)  # fmt: skip

_FROM_PIP = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_CERT": "SSL_CERT_FILE"}
"""What pip was told and uv would not hear of; uv's own variable wins."""

_NETWORK = re.compile(
    r"error sending request|dns error|[Cc]onnection (refused|reset)|timed out|tcp connect"
    r"|Could not connect|Failed to fetch|network is unreachable|HTTP status",
    re.IGNORECASE,
)
_HASH = re.compile(r"[Hh]ash mismatch")
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")


@dataclass(frozen=True)
class UvCall:
    """One call of uv: what it should do, in words for errors, and its limits."""

    purpose: str
    arguments: tuple[str, ...]
    directory: Path
    log: Path
    timeout_seconds: float


def find_uv() -> Path:
    """Returns the uv beside this Python, else the one on the PATH."""
    beside = Path(sys.executable).parent / "uv"
    if beside.is_file():
        return beside
    found = shutil.which("uv")
    if found is None:
        raise UnavailableError(
            "uv is not installed; toolchains are installed with it",
            where=str(beside),
            remedy=f"{sys.executable} -m pip install uv",
        )
    return Path(found)


def call_uv(call: UvCall, on_line: Listener | None = None) -> None:
    """Runs uv; raises IntegrityError on a wrong hash, UnavailableError on any other failure."""
    command = Command(
        arguments=(str(find_uv()), "--no-progress", "--color", "never", *call.arguments),
        environment=uv_environment(os.environ),
        directory=call.directory,
        log=call.log,
        timeout_seconds=call.timeout_seconds,
    )
    ended = run_command(command, on_line)
    if ended.timed_out:
        raise UnavailableError(
            f"{call.purpose}: no end within {call.timeout_seconds:.0f} s",
            where=str(call.log),
            remedy="look at the network; what was downloaded is kept, so run it again",
            transient=True,
        )
    if ended.status != 0:
        raise _failure(call)


def uv_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns what uv sees: its own settings, those it can take from pip, network, nothing else."""
    passed = {
        name: value
        for name, value in environ.items()
        # uv stops with an error at a folder of wheels that does not exist: those come as options.
        if name in _PASSED or (name.startswith("UV_") and name != "UV_FIND_LINKS")
    }
    if "UV_INDEX_URL" in passed:
        passed.setdefault("UV_DEFAULT_INDEX", passed["UV_INDEX_URL"])
    for theirs, ours in _FROM_PIP.items():
        if theirs in environ:
            passed.setdefault(ours, environ[theirs])
    return passed


def _failure(call: UvCall) -> UnavailableError | DiskFullError | IntegrityError:
    text = call.log.read_text(encoding="utf-8", errors="replace")
    reason = _reason(text)
    if _HASH.search(text):
        return IntegrityError(
            f"{call.purpose}: a download is not the file that the lock names",
            where=str(call.log),
            actual=reason,
            remedy="do not use this package index; if it is yours, find out who changed the file",
        )
    if _FULL.search(text):
        return DiskFullError(
            f"{call.purpose}: the disk is full",
            where=str(call.log),
            remedy="free some space and run it again: what was downloaded is kept",
        )
    if _NETWORK.search(text):
        return UnavailableError(
            f"{call.purpose}: the package index cannot be reached",
            where=str(call.log),
            actual=reason,
            remedy="look at the network or set UV_DEFAULT_INDEX to a mirror, then run it again",
            transient=True,
        )
    return UnavailableError(
        f"{call.purpose}: uv failed", where=str(call.log), actual=reason,
        remedy=f"read {call.log}",
    )  # fmt: skip


def _reason(text: str) -> str:
    """Returns uv's error without its frame; it prints a cause per line, the last being the root."""
    lines = [re.sub(r"^\W+|^error: ", "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    return " / ".join(lines[-3:])[:500] if lines else "nothing in the log"
