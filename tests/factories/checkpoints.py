"""Real ModelOpt exports of a tiny model, copied to where a test may damage them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginekeeper.validation.tensor_files import PlannedTensor, TensorFile, write_tensors

EXPORTS = Path(__file__).parents[1] / "assets" / "modelopt-0.47-tiny"
SOURCE = EXPORTS / "source"
RECIPES = (
    "none",
    "w8a16",
    "fp8",
    "fp8_per_channel_per_token",
    "w4a16",
    "w8a8_sq",
    "w4a16_awq",
    "w4a8_awq",
    "nvfp4",
    "w4a16_awq_tp2",
    "w8a8_sq_tp2",
)

Array = npt.NDArray[Any]
Edit = Callable[[Array], Array | None]


def exported(recipe: str, directory: Path) -> Path:
    """Copies an export, its two config faults repaired, so that both audits pass."""
    checkpoint = directory / recipe
    shutil.copytree(EXPORTS / recipe, checkpoint)
    edit_config(checkpoint, rotary_base=50000.0)
    if recipe == "w4a16":
        edit_quantization(checkpoint, pre_quant_scale=False)
    return checkpoint


def source_copy(directory: Path) -> Path:
    """Copies the source model."""
    return Path(shutil.copytree(SOURCE, directory / "source"))


def edit_config(directory: Path, **changes: object) -> None:
    """Sets fields of `config.json`; a value of None removes the field."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_quantization(directory: Path, **changes: object) -> None:
    """Sets fields of the `quantization` block."""
    block = json.loads((directory / "config.json").read_text())["quantization"]
    edit_config(directory, quantization={**block, **changes})


def edit_tensors(
    directory: Path, edit: Callable[[dict[str, Array]], object], rank: int = 0
) -> None:
    """Hands all tensors of a rank to `edit`, which changes the dictionary in place."""
    path = directory / f"rank{rank}.safetensors"
    if not path.exists():
        path = directory / "model.safetensors"
    file = TensorFile.open(path)
    arrays = {name: np.array(tensor.read()) for name, tensor in file.items()}
    edit(arrays)
    written = path.with_suffix(".edited")
    write_tensors(written, [PlannedTensor.of(name, array) for name, array in arrays.items()])
    written.replace(path)


def edit_tensor(directory: Path, name: str, edit: Edit, rank: int = 0) -> None:
    """Replaces one tensor by what `edit` returns for it, or leaves what it did in place."""

    def change(arrays: dict[str, Array]) -> None:
        edited = edit(arrays[name])
        if edited is not None:
            arrays[name] = np.asarray(edited).astype(arrays[name].dtype, copy=False)

    edit_tensors(directory, change, rank)
