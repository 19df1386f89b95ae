"""Which files of a Hugging Face directory are the model, and whether they are all there."""

from __future__ import annotations

from pathlib import Path

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.tensor_files import TensorFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

Shards = dict[str, TensorFile]
"""The weight files by name."""


def read_shards(model: Path) -> Shards:
    """Returns the headers of all weight files; none may be missing, none unlisted."""
    if (model / SINGLE).is_file():
        shards = {SINGLE: TensorFile.open(model / SINGLE)}
    elif (model / INDEX).is_file():
        shards = _by_index(model)
    else:
        raise _no_weights(model)
    unlisted = sorted({path.name for path in model.glob("*.safetensors")} - shards.keys())
    if unlisted:
        # transformers would not read them and vLLM would: two readers, two models.
        raise InputError(
            "weight files that the index does not name",
            where=str(model),
            actual=", ".join(unlisted),
            expected=", ".join(sorted(shards)),
            remedy="move them elsewhere, or get the index that names them",
        )
    return shards


def _by_index(model: Path) -> Shards:
    path = model / INDEX
    listed = read_json_object(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
        raise InputError("no weight_map from tensors to files", where=str(path))
    shards = {name: TensorFile.open(_beside(path, name)) for name in sorted(set(listed.values()))}
    for tensor, shard in listed.items():
        if tensor not in shards[shard]:
            raise InputError(
                f"the index says that {tensor} is in a shard that does not have it",
                where=str(model / shard),
                remedy="get the shard and the index again, from one revision",
            )
    for shard, tensors in shards.items():
        strays = [name for name in tensors if listed.get(name) != shard]
        if strays:
            raise InputError(
                f"the shard holds {strays[0]}, which the index does not place there",
                where=str(model / shard),
                remedy="get the shard and the index again, from one revision",
            )
    return shards


def _beside(index: Path, name: str) -> Path:
    """Returns a shard's path; refuses names that lead out of the directory."""
    if Path(name).name != name or not name.endswith(".safetensors"):
        raise InputError(
            "not the name of a shard", where=str(index), actual=name, expected="*.safetensors"
        )
    return index.with_name(name)


def _no_weights(model: Path) -> InputError:
    pickles = sorted(path.name for path in model.glob("pytorch_model*.bin"))
    return InputError(
        "no safetensors weights",
        where=str(model),
        actual=", ".join(pickles) or None,
        expected=f"{SINGLE}, or {INDEX} with its shards",
        remedy="convert them to safetensors: pickles are not read, they can run code"
        if pickles
        else "is this the directory of the model itself?",
    )
