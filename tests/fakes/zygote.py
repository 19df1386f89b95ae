"""Runs the command line in forks of one process that has imported everything: 0.1 s, not 2 s.

Reads requests and writes answers, one JSON object a line, until its input ends. A request says
what to run, in which environment, where its output goes, and where it is to be interrupted or to
fail; the answer is the exit status, negative for a signal.

A fork is a process like one from a shell: it leads a session, its signals are real, and it exits
through `enginekeeper.cli.main.run`. With `plain` its Prefect is `tests.fakes.plain_prefect`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any, NoReturn

from sqlalchemy.orm import configure_mappers

from enginekeeper.cli.main import run as run_cli
from enginekeeper.orchestration import prefect_api
from enginekeeper.toolchains import step_code
from enginekeeper.toolchains.runner import STEPS
from tests.fakes import boundaries, plain_prefect

PRELOADED = (
    "alembic.command",
    "enginekeeper.cli.build",
    "enginekeeper.orchestration.judging",
    "enginekeeper.orchestration.publication",
    "enginekeeper.orchestration.start",
    "httpx",
    "prefect.flows",
    "registry.migrate",
    "safetensors.numpy",
    "scipy.stats",
    "sqlalchemy.dialects.sqlite",
)


def serve(*, plain: bool) -> None:
    answers = os.fdopen(os.dup(1), "w")  # nothing that is imported may write between them
    os.dup2(2, 1)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _be(json.loads(line), plain=plain)
        _, status = os.waitpid(pid, 0)
        answers.write(json.dumps({"status": os.waitstatus_to_exitcode(status)}) + "\n")
        answers.flush()


def _be(request: dict[str, Any], *, plain: bool) -> NoReturn:
    """Becomes the command line; an exception that reaches this frame is exit status 99."""
    status = 99
    try:
        os.setsid()
        for descriptor, path in ((1, request["out"]), (2, request["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["environment"])
        boundaries.watch(request)
        sys.argv = ["ek", *request["arguments"]]
        run_cli()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 98
    except BaseException:  # noqa: BLE001 - the outermost frame of a process
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if plain:
        os._exit(status)
    sys.exit(status)  # Prefect's own threads are waited for


if __name__ == "__main__":
    is_plain = sys.argv[1] == "plain"
    if is_plain:
        plain_prefect.install()
    prefect_api.prepare_prefect()
    for module in PRELOADED:
        importlib.import_module(module)
    configure_mappers()
    for script in STEPS.glob("*.py"):
        step_code._imported(script.read_bytes())  # remembered: parsing takes half of a run's time
    serve(plain=is_plain)
