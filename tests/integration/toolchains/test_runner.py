"""Every way a step can end, each provoked by a real process."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.errors import MissingError, StepError, UnavailableError
from enginekeeper.toolchains.errors import (
    MalformedResultError,
    StepCrashedError,
    StepDiskFullError,
    StepKilledError,
    StepRefusedError,
    StepTimeoutError,
)
from enginekeeper.toolchains.runner import STEPS, StepOutcome, StepRun, run_step

Play = Callable[..., StepOutcome]
PYTHON = Path(sys.executable)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Runs a function body as the step `probe`."""
    scripts = tmp_path / "steps"
    scripts.mkdir()
    (scripts / "_step.py").symlink_to(STEPS / "_step.py")

    def run(
        body: str,
        *,
        job: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> StepOutcome:
        (scripts / "probe.py").write_text(
            "import os, signal, subprocess, sys, time\nfrom _step import Refusal, main\n"
            f"def run(job):\n{textwrap.indent(textwrap.dedent(body), '    ')}\nmain(run)\n"
        )
        step = StepRun("shell", "probe", job or {}, tmp_path / "run", timeout, scripts=scripts)
        return run_step(step, python=PYTHON, on_line=on_line)

    return run


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # dead; its new parent has not looked yet


def _pid_in(path: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return int(text)
        time.sleep(0.01)
    raise AssertionError(f"nobody wrote {path}")


def test_a_step_that_ends_well_returns_its_outputs_and_versions(play: Play) -> None:
    outcome = play("return {'sum': job['a'] + 1}", job={"a": 41})

    assert outcome.outputs == {"sum": 42}
    assert outcome.versions["python"].startswith("3.")
    assert outcome.seconds > 0


def test_both_output_streams_go_to_the_log_and_line_by_line_to_the_caller(play: Play) -> None:
    lines: list[str] = []

    outcome = play(
        "print('progress 1/2 \\x1b[31mred'); print('careful', file=sys.stderr); return {}",
        on_line=lines.append,
    )

    assert lines == ["progress 1/2 [31mred", "careful"]
    assert "careful" in outcome.log.read_text()


def test_a_traceback_is_a_crash_that_quotes_the_exception(play: Play) -> None:
    with pytest.raises(StepCrashedError, match="exit status 1") as caught:
        play("raise ValueError('scale is zero')")

    assert caught.value.actual == "ValueError: scale is zero"
    assert "step probe (shell)" in str(caught.value)
    assert "step.log" in str(caught.value)


def test_a_segmentation_fault_is_a_crash_named_by_its_signal(play: Play) -> None:
    with pytest.raises(StepCrashedError, match="SIGSEGV"):
        play("os.kill(os.getpid(), signal.SIGSEGV)")


def test_a_missing_module_points_at_the_toolchain(play: Play) -> None:
    with pytest.raises(StepCrashedError) as caught:
        play("import no_such_module_anywhere")

    assert caught.value.remedy is not None
    assert "toolchain sync shell" in caught.value.remedy


def test_a_kill_from_outside_is_not_a_crash(play: Play) -> None:
    with pytest.raises(StepKilledError, match="SIGKILL") as caught:
        play("print('at layer 7', flush=True); os.kill(os.getpid(), signal.SIGKILL)")

    assert caught.value.actual == "at layer 7"


def test_a_step_is_killed_at_its_time_limit(play: Play) -> None:
    started = time.monotonic()

    with pytest.raises(StepTimeoutError, match="time limit"):
        play("time.sleep(60)", timeout=0.5)

    assert time.monotonic() - started < 20


def test_a_refusal_keeps_every_field(play: Play) -> None:
    with pytest.raises(StepRefusedError) as caught:
        play(
            "raise Refusal('too-big', 'does not fit', where='limits', expected=8, actual=9,"
            " remedy='ask for less')"
        )

    assert caught.value.as_dict() | {"where": None} == {
        "error": "StepRefusedError",
        "what": "limits: does not fit",
        "where": None,
        "found": "9",
        "expected": "8",
        "next": "ask for less",
        "kind": "too-big",
        "subject": "limits",
    }


@pytest.mark.parametrize(
    "body",
    [
        "os._exit(0)",
        "open(sys.argv[2], 'w').write('{\"schema\": 1'); os._exit(0)",
        "open(sys.argv[2], 'w').write('[]'); os._exit(0)",
        "open(sys.argv[2], 'w').write('{\"schema\": 2}'); os._exit(0)",
        'open(sys.argv[2], \'w\').write(\'{"schema": 1, "step": "other"}\'); os._exit(0)',
    ],
)
def test_no_result_or_a_wrong_one_is_malformed(play: Play, body: str) -> None:
    with pytest.raises(MalformedResultError):
        play(body)


def test_the_result_of_an_earlier_run_is_not_taken_for_this_ones(play: Play) -> None:
    play("return {}")

    with pytest.raises(MalformedResultError, match="no result"):
        play("os._exit(0)")


@pytest.mark.parametrize("session", ["False", "True"])
def test_grandchildren_die_with_a_step_that_ends_well(
    play: Play, tmp_path: Path, session: str
) -> None:
    play(
        f"""
        p = subprocess.Popen(['sleep', '300'], start_new_session={session})
        open('pid', 'w').write(f'{{p.pid}}\\n')
        return {{}}
        """
    )

    assert _gone(_pid_in(tmp_path / "run" / "pid"))


def test_grandchildren_die_with_a_step_that_is_out_of_time(play: Play, tmp_path: Path) -> None:
    with pytest.raises(StepTimeoutError):
        play(
            """
            p = subprocess.Popen(['sleep', '300'])
            open('pid', 'w').write(f'{p.pid}\\n')
            time.sleep(300)
            """,
            timeout=2,
        )

    assert _gone(_pid_in(tmp_path / "run" / "pid"))


def test_an_interrupt_ends_the_step_and_is_passed_on(play: Play, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt):
        play(
            """
            p = subprocess.Popen(['sleep', '300'])
            open('pid', 'w').write(f'{p.pid}\\n')
            print('ready', flush=True)
            time.sleep(300)
            """,
            on_line=interrupt,
        )

    assert _gone(_pid_in(tmp_path / "run" / "pid"))


def _runner_in_its_own_process(tmp_path: Path) -> subprocess.Popen[bytes]:
    scripts = tmp_path / "steps"
    (scripts / "probe.py").write_text(
        "import os, time\nfrom _step import main\n"
        "def run(job):\n"
        "    open('pid', 'w').write(f'{os.getpid()}\\n')\n    time.sleep(300)\nmain(run)\n"
    )
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from enginekeeper.toolchains.runner import StepRun, run_step\n"
        "run = StepRun('shell', 'probe', {}, Path('run').absolute(), 300,"
        " scripts=Path('steps').absolute())\n"
        "run_step(run, python=Path(sys.executable))\n"
    )
    return subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("play")
def test_no_step_outlives_its_runner(tmp_path: Path, number: signal.Signals) -> None:
    with _runner_in_its_own_process(tmp_path) as runner:
        pid = _pid_in(tmp_path / "run" / "pid")

        runner.send_signal(number)
        runner.communicate(timeout=30)

    deadline = time.monotonic() + 10
    while not _gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _gone(pid)


def test_a_full_disk_in_the_step_is_said(play: Play) -> None:
    with pytest.raises(StepDiskFullError, match="disk is full"):
        play(
            """
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            with open('big', 'wb') as handle:
                handle.write(bytes(100_000))
            """
        )


def test_a_full_disk_under_the_log_is_said(play: Play) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(StepDiskFullError, match="write its log"):
            play("print('x' * 100_000, flush=True); time.sleep(300)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_secrets_and_python_variables_do_not_reach_the_step(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    seen = play("return dict(os.environ)").outputs

    assert "s3cret" not in json.dumps(seen)
    assert "PYTHONPATH" not in seen
    assert seen["OMP_NUM_THREADS"] == "3"
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert seen["PATH"].split(os.pathsep)[0] == str(PYTHON.parent)


def test_output_without_end_fills_the_log_only_to_its_limit(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginekeeper.toolchains.processes.LOG_LIMIT", 100_000)

    outcome = play("print('x' * 1_000_000); return {}")

    assert outcome.log.stat().st_size < 200_000
    assert "the log ends here" in outcome.log.read_text()


def test_an_unknown_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no step called nonsense"):
        run_step(StepRun("shell", "nonsense", {}, tmp_path, 1), python=PYTHON)


def test_a_missing_interpreter_points_at_the_toolchain(tmp_path: Path) -> None:
    run = StepRun("inductor", "materialize", {}, tmp_path, 1)

    with pytest.raises(UnavailableError, match="toolchain sync inductor"):
        run_step(run, python=tmp_path / "bin" / "python")


def test_every_failure_is_a_step_error() -> None:
    kinds = [
        StepCrashedError, StepKilledError, StepTimeoutError, StepDiskFullError,
        MalformedResultError, StepRefusedError,
    ]  # fmt: skip

    assert all(issubclass(kind, StepError) for kind in kinds)
