"""What the steps that run TensorRT-LLM's own programs share: the GPU, the program, its end.

Written against the documented tools; not run on a GPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _step import Refusal

VERSION_LINE = re.compile(r"\[TensorRT-LLM\] TensorRT[ -]LLM version: (\S+)")
"""From 1.0.0 on the tool says `TensorRT LLM`, before `TensorRT-LLM`."""


@dataclass(frozen=True)
class Making:
    """An engine in the making: of what, by which program, for which GPU, and where."""

    checkpoint: Path
    ranks: int
    tool: Path
    devices: list[dict[str, str]]
    """Those that the program sees; more than one where it is to make ranks at once."""

    place: Path
    """Where the program is to write it: in a scratch folder, which is where it runs."""


@contextmanager
def making_engine(job: dict[str, Any], name: str) -> Iterator[Making]:
    """Gives a program what it needs, all looked for before any work; then moves a whole engine.

    The engine appears at the job's output when the block has ended well, complete or not at all.
    """
    checkpoint, output = Path(job["checkpoint"]).resolve(), Path(job["output"])
    ranks = ranks_of(checkpoint)
    if output.exists():
        raise Refusal("output-exists", "the engine's place is taken", where=output)
    tool = program(name)
    devices = find_devices_to_share(job["gpu"], min(ranks, int(job.get("workers", 1))))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".engine-") as folder:
        making = Making(checkpoint, ranks, tool, devices, Path(folder) / "engine")
        yield making
        check_whole(making.place, ranks, name)
        making.place.replace(output)


def ranks_of(checkpoint: Path) -> int:
    """Returns a checkpoint's number of ranks; refuses one that is not whole."""
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        ranks = (config.get("mapping") or {}).get("world_size", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise Refusal(
            "config-unreadable", "the checkpoint's config.json cannot be read",
            where=checkpoint, actual=error,
        ) from error  # fmt: skip
    if type(ranks) is not int or ranks < 1:
        raise Refusal(
            "config-field-type", "not a number of ranks",
            where="mapping.world_size", actual=repr(ranks), expected="1 or more",
        )  # fmt: skip
    missing = [n for n in range(ranks) if not (checkpoint / f"rank{n}.safetensors").is_file()]
    if missing:
        raise Refusal(
            "missing-rank", "the checkpoint is not whole",
            where=checkpoint, expected=f"rank{missing[0]}.safetensors",
        )  # fmt: skip
    return ranks


def program(name: str) -> Path:
    """Returns a program of this toolchain: beside its interpreter, not somewhere on the PATH.

    In a container all there is is the toolchain, and its programs lie where its image has them.
    """
    found = shutil.which(name) if os.environ.get("ENGINEKEEPER_STEP_CONTAINER") == "1" else None
    path = Path(found or Path(sys.executable).parent / name)
    if not path.is_file():
        raise Refusal(
            f"no-{name}", f"this toolchain has no {name}", where=path,
            remedy="releases up to 1.2.1 have it: enginekeeper toolchain sync NAME on a GPU host",
        )  # fmt: skip
    return path


def find_devices_to_share(wanted: dict[str, str], most: int) -> list[dict[str, str]]:
    """Returns the first GPU that is the one the engine is for; refuses before any work.

    It returns more, up to `most`, where CUDA_VISIBLE_DEVICES names them: on a host that serves,
    nobody takes GPUs that were not given to them.
    """
    if most > 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
        _, fitting = _fitting(wanted)
        if fitting:
            return fitting[:most]
    return find_devices(wanted, 1)


def find_devices(wanted: dict[str, str], count: int) -> list[dict[str, str]]:
    """Returns as many GPUs of the kind the engine is for; refuses where there are fewer.

    Numbers in CUDA_VISIBLE_DEVICES are taken in nvidia-smi's order, which is that of the bus.
    """
    found, fitting = _fitting(wanted)
    if len(fitting) >= count:
        return fitting[:count]
    expected = f"{wanted['product']}, compute capability {wanted['compute_capability']}"
    raise Refusal(
        "wrong-gpu",
        "there is no GPU of the kind the engine is for"
        if count == 1
        else f"there are not {count} GPUs of the kind the engine is for",
        expected=expected,
        actual=", ".join(f"{it['product']} ({it['compute_capability']})" for it in found) or "none",
        remedy="build on a host that has one: an engine is bound to the GPU that built it",
    )


def _fitting(wanted: dict[str, str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Returns the GPUs that this process may see, and those of them of the kind."""
    found = _devices()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [_whole_name(name.strip(), found) for name in allowed.split(",")]
        found = [one for one in found if one["index"] in names or one["uuid"] in names]
    kind = (wanted["product"], wanted["compute_capability"])
    return found, [one for one in found if (one["product"], one["compute_capability"]) == kind]


def _whole_name(name: str, devices: list[dict[str, str]]) -> str:
    """Returns the UUID that a name is the beginning of, as CUDA takes one, if it is of one alone.

    The other side is `chosen_gpus` in enginekeeper/orchestration/launching.py.
    """
    begun = [one["uuid"] for one in devices if name and one["uuid"].startswith(name)]
    return begun[0] if len(begun) == 1 else name


def use_devices(job: dict[str, Any]) -> None:
    """Lets this process, and what it starts, see the GPUs that its job names, and no others.

    By their UUIDs: CUDA counts GPUs in an order of its own, unless it is told otherwise. A job of
    the double names none.
    """
    if "gpu" in job:
        devices = find_devices(job["gpu"], int(job["ranks"]))
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(one["uuid"] for one in devices)


def _devices() -> list[dict[str, str]]:
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise Refusal(
            "no-gpu", "there is no nvidia-smi here, and so no GPU to build on",
            remedy="build on a GPU host",
        ) from None  # fmt: skip
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise Refusal(
            "driver-silent", "the NVIDIA driver does not answer", actual=said[-1] if said else "",
            remedy="after a driver update reboot the node or reload the kernel module",
        )  # fmt: skip
    names = ("index", "uuid", "product", "compute_capability")
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def run_program(
    making: Making,
    arguments: list[str],
    version: str,
    on_line: Callable[[str], object] = lambda _line: None,
) -> None:
    """Runs a program to its end, its words in the log; ends this step as it ended, if badly."""
    # By UUIDs: CUDA counts GPUs in an order of its own, unless it is told otherwise.
    seen = ",".join(one["uuid"] for one in making.devices)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": seen}
    with subprocess.Popen(
        [str(making.tool), *arguments], cwd=making.place.parent, env=environment, text=True,
        errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:  # fmt: skip
        for line in child.stdout or ():
            print(line, end="", flush=True)
            if (match := VERSION_LINE.search(line)) and match[1] != version:
                child.kill()
                raise Refusal(
                    "wrong-release", "the toolchain is of another release",
                    actual=match[1], expected=version,
                    remedy="resolve its lock again: enginekeeper toolchain lock NAME",
                )  # fmt: skip
            on_line(line)
    if child.returncode != 0:
        _fail(child.returncode)


def _fail(status: int) -> None:
    """Ends as the tool ended; a tool that was killed leaves no word, so its word is said here."""
    if status == -signal.SIGKILL:
        print("Killed", flush=True)
    sys.exit(status if status > 0 else 128 - status)


def check_whole(place: Path, ranks: int, name: str) -> None:
    """Refuses an engine directory that lacks a file or has an empty one."""
    wanted = ["config.json", *(f"rank{rank}.engine" for rank in range(ranks))]
    for file in wanted:
        path = place / file
        if not path.is_file() or path.stat().st_size == 0:
            raise Refusal(
                "engine-incomplete", f"{name} ended well and left no whole engine",
                where=file, expected=", ".join(wanted),
                actual=", ".join(sorted(it.name for it in place.glob("*"))) or "nothing",
            )  # fmt: skip


def vocabulary_of(tokens: Path) -> int:
    """Returns the size of the vocabulary that a suite was tokenized with."""
    return int(json.loads(tokens.read_text(encoding="utf-8"))["vocab_size"])
