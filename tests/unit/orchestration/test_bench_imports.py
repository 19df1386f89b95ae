"""What opening a bench costs before anything is asked of it."""

from __future__ import annotations

import subprocess
import sys


def test_a_bench_loads_no_pydantic_no_nvml_and_reads_no_table() -> None:
    code = (
        "import sys\n"
        "read = []\n"
        "sys.addaudithook(lambda event, args: event == 'open' and read.append(str(args[0])))\n"
        "import enginekeeper.orchestration.bench\n"
        "heavy = {'pydantic', 'pynvml'} & set(sys.modules)\n"
        "tables = {one for one in read if one.endswith('.json') and 'enginekeeper' in one}\n"
        "sys.exit(' '.join(sorted(heavy | tables)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_plan_loads_neither_scipy_nor_prefect() -> None:
    code = (
        "import sys\n"
        "import enginekeeper.orchestration.start\n"
        "sys.exit(' '.join(sorted({'scipy', 'prefect'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
