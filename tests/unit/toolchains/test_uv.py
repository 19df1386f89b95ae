from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.toolchains import uv
from enginekeeper.toolchains.processes import Command, Ended
from enginekeeper.toolchains.uv import UvCall, call_uv
from registry.errors import DiskFullError, IntegrityError


def _fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, ended: Ended) -> None:
    def run(command: Command, _: object) -> Ended:
        command.log.write_text(log)
        return ended

    monkeypatch.setattr(uv, "find_uv", lambda: Path("uv"))
    monkeypatch.setattr(uv, "run_command", run)
    call_uv(UvCall("installing x", ("pip", "install"), tmp_path, tmp_path / "uv.log", 5.0))


@pytest.mark.parametrize(
    ("log", "family", "complaint"),
    [
        (
            "error: Failed to fetch: `https://i/x/`\n  Caused by: dns error\n",
            UnavailableError,
            "package index cannot be reached",
        ),
        (
            "  ├─▶ Failed to download `idna==3.20`\n  ╰─▶ Hash mismatch for `idna==3.20`\n",
            IntegrityError,
            "not the file that the lock names",
        ),
        ("error: failed to write x: No space left on device (os error 28)", DiskFullError,
         "disk is full"),
        ("  ├─▶ No solution found\n  ╰─▶ Because x was not found", UnavailableError, "uv failed"),
        ("", UnavailableError, "nothing in the log"),
    ],
)  # fmt: skip
def test_what_uv_says_becomes_what_can_be_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: str,
    family: type[Exception],
    complaint: str,
) -> None:
    with pytest.raises(family, match=complaint):
        _fail(tmp_path, monkeypatch, log, Ended(2, timed_out=False, seconds=1.0))


def test_a_uv_without_end_is_stopped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError, match="no end within 5 s"):
        _fail(tmp_path, monkeypatch, "", Ended(-9, timed_out=True, seconds=5.0))


def test_the_reason_is_uvs_last_words_without_its_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError) as caught:
        _fail(
            tmp_path,
            monkeypatch,
            "  ├─▶ No solution\n  ╰─▶ Because x\n",
            Ended(1, timed_out=False, seconds=1.0),
        )

    assert caught.value.actual == "No solution / Because x"
