"""Checks a model directory once and names it by what it holds.

Rules:

- a directory that comes back is whole: config, every shard to its last byte, finite weights, a
  tokenizer whose ids have a row in the embedding;
- the first thing that is wrong is an InputError that names the file, and the tensor or field;
- what was read is remembered by the files' size, times and inode: unchanged files are not read
  again, not even when their directory was renamed, and any change makes it look again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from enginekeeper.errors import InputError
from enginekeeper.sources.layout import INDEX, SINGLE, check_against_config, read_json, read_shards
from enginekeeper.sources.model_directory import ModelDirectory, ModelFile, model_digest
from enginekeeper.sources.shards import check_finite
from enginekeeper.sources.tokenizer_files import check_tokenizer
from registry.digests import Digest, digest_document, digest_file

_VERSION = 1  # of these checks; a stricter one looks again at what an older one let pass


def inspect_model(model: Path, memory: Path) -> ModelDirectory:
    """Returns the checked model; `memory` is a directory that remembers what was read."""
    if not model.is_dir():
        raise InputError("not a directory", where=str(model), expected="a Hugging Face directory")
    path = model.resolve()
    key = _fingerprint(path)
    files = _recall(memory, key)
    if files is None:
        files = _inspect(path)
        if key == _fingerprint(path):  # else it was being written while it was read
            _remember(memory, key, files)
    return ModelDirectory(path, model_digest(files), files)


def _inspect(model: Path) -> tuple[ModelFile, ...]:
    config = read_json(model / "config.json")
    shards = read_shards(model)
    check_against_config(model, config, shards)
    tokenizer = check_tokenizer(model, config["vocab_size"])
    for name, tensors in shards.items():
        check_finite(model / name, tensors)
    index = [] if SINGLE in shards else [INDEX]
    names = sorted({"config.json", *shards, *index, *tokenizer})
    return tuple(_file(model / name) for name in names)


def _file(path: Path) -> ModelFile:
    return ModelFile(path.name, digest_file(path).value, path.stat().st_size)


def _fingerprint(model: Path) -> Digest:
    """Names the present state of all files by what the file system says of them."""
    states = []
    for entry in sorted(os.scandir(model), key=lambda entry: entry.name):
        stat = entry.stat()  # follows links: a hub cache is made of them
        states.append(
            [entry.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
        )
    document = {"version": _VERSION, "files": states}
    return digest_document(document, "ek-model-state-v1")


def _recall(memory: Path, key: Digest) -> tuple[ModelFile, ...] | None:
    """Returns what was read of these files before; an unreadable memory is no memory."""
    try:
        rows = json.loads((memory / f"{key.value}.json").read_text(encoding="utf-8"))
        return tuple(ModelFile(row["name"], row["sha256"], row["size"]) for row in rows)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(memory: Path, key: Digest, files: tuple[ModelFile, ...]) -> None:
    memory.mkdir(parents=True, exist_ok=True)
    rows = [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in files]
    # Written in place: the beginning of a JSON list is no JSON, so a half memory is none.
    (memory / f"{key.value}.json").write_text(json.dumps(rows), encoding="utf-8")
