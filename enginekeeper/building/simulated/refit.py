"""A stand-in for `trtllm-refit`: puts weights into stripped plans as the release would.

From `tensorrt_llm/commands/refit.py` (1.0 pre-releases): the same options, the same refusals in the
same words, and the same trust. Like the release it asks for the names of the weights and for the
architecture, and **not** whether they are the weights that the plan was built from: with others
TensorRT promises nothing, and who refits has to see to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from enginekeeper.building.simulated.build import greeting
from enginekeeper.building.simulated.plan_file import (
    PlanNote,
    read_plan,
    sha256_of,
    tensor_names,
    write_plan,
)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of `trtllm-refit`."""
    made = argparse.ArgumentParser(prog="trtllm-refit")
    for name in ("engine_dir", "checkpoint_dir", "output_dir"):
        made.add_argument(f"--{name}", type=str, default=None, help="path")
    made.add_argument("--log_level", type=str, default="info", help="level")
    return made


def main(version: str, argv: list[str] | None = None) -> None:
    """Runs as the tool of a release would."""
    _print(greeting(version))
    arguments = parser().parse_args(argv)
    for name in ("engine_dir", "checkpoint_dir"):
        given = getattr(arguments, name)
        if given is None or not Path(given).exists():
            raise RuntimeError(f"Please supply a valid --{name} (found `{given}`)")
    engine, checkpoint = Path(arguments.engine_dir), Path(arguments.checkpoint_dir)
    document = _read(engine / "config.json")
    own = document["pretrained_config"]["architecture"]
    given = _read(checkpoint / "config.json")["architecture"]
    if own != given:
        raise RuntimeError(
            "Engine Architecture and Checkpoint Architecture do not match. "
            f"Engine Architecture: `{own}`, Checkpoint Architecture: `{given}`"
        )
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_bytes((engine / "config.json").read_bytes())
    for path in sorted(engine.glob("*.engine")):
        _refit(path, checkpoint, output)


def _refit(path: Path, checkpoint: Path, output: Path) -> None:
    plan, weights = read_plan(path), checkpoint / f"{path.stem}.safetensors"
    missing = set(plan.note.names) - set(tensor_names(weights))
    if missing:
        raise RuntimeError(f"Missing refittable weights {missing} from {checkpoint}")
    note = PlanNote(
        device=plan.note.device,
        compute_capability=plan.note.compute_capability,
        weights=sha256_of(weights),
        names=plan.note.names,
        stripped=False,
    )
    place = output / path.name
    _print(f"[11/26/2026-03:00:00] [TRT-LLM] [I] Writing refitted engine to `{place}`")
    write_plan(place, plan.version, note, weights)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
