"""Checks a model directory once and names it by what it holds.

Rules:

- a directory that comes back is whole: config, every tensor the config speaks of in its shape,
  every shard to its last byte, finite weights, a tokenizer whose ids have a row in the embedding;
- the first thing that is wrong is an InputError that names the file, and the tensor or field;
- what was read is remembered by the files' size, times and inode: unchanged files are not read
  again, not even when their directory was renamed, and any change makes it look again.
"""

from __future__ import annotations

import json
from pathlib import Path

from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.documents import read_json, read_json_object
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.sources.finite import check_finite
from enginekeeper.sources.layout import INDEX, SINGLE, read_shards
from enginekeeper.sources.model_directory import ModelDirectory, ModelFile, model_digest
from enginekeeper.sources.tokenizer_files import check_tokenizer, extra_templates
from enginekeeper.sources.wholeness import check_tensors
from registry.digests import Digest, digest_document, digest_file
from registry.disks import full_disk_said

_VERSION = 3  # of these checks; a stricter one looks again at what an older one let pass

_READABLE = 200  # characters of a path in a message


def inspect_model(model: Path, memory: Path) -> ModelDirectory:
    """Returns the checked model; `memory` is a directory that remembers what was read."""
    path = _directory(model)
    key = _fingerprint(path)
    files = _recall(memory, key)
    if files is None:
        files = _inspect(path)
        if key == _fingerprint(path):  # else it was being written while it was read
            _remember(memory, key, files)
    return ModelDirectory(path, model_digest(files), files)


def _inspect(model: Path) -> tuple[ModelFile, ...]:
    where = model / "config.json"
    config = HfConfig.of(read_json_object(where), str(where))
    shards = read_shards(model)
    check_tensors(model, config, {n: t for shard in shards.values() for n, t in shard.items()})
    serving = check_tokenizer(model, config.vocab_size)
    for shard in shards.values():
        check_finite(shard)
    index = [] if SINGLE in shards else [INDEX]
    names = sorted({"config.json", *shards, *index, *serving})
    return tuple(_file(model, model / name) for name in names)


def _directory(model: Path) -> Path:
    """Returns the directory without links; names that no file can have are none either."""
    try:
        if model.is_dir():
            return model.resolve()
        reason = None
    except (OSError, ValueError) as error:  # a path that is too long, or has a zero byte
        reason = str(getattr(error, "strerror", error))
    raise InputError(
        "not a directory",
        where=_shortened(str(model)),
        actual=reason,
        expected="a Hugging Face directory",
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _READABLE else f"{text[:_READABLE]}… ({len(text)} characters)"


def _file(model: Path, path: Path) -> ModelFile:
    name = path.relative_to(model).as_posix()
    return ModelFile(name, digest_file(path).value, path.stat().st_size)


def _fingerprint(model: Path) -> Digest:
    """Names the present state of all files by what the file system says of them."""
    states = []
    names = [path.name for path in model.iterdir()]
    for name in sorted([*names, *extra_templates(model)]):
        try:
            stat = (model / name).stat()  # follows links: a hub cache is made of them
        except OSError as error:
            raise InputError(
                "a file cannot be read", where=str(model / name), actual=error.strerror,
                remedy="is it a link to a file that is gone? get it again, or remove the link",
            ) from error  # fmt: skip
        states.append(
            [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
        )
    document = {"version": _VERSION, "files": states}
    return digest_document(document, "ek-model-state-v1")


def _recall(memory: Path, key: Digest) -> tuple[ModelFile, ...] | None:
    """Returns what was read of these files before; an unreadable memory is no memory."""
    try:
        rows = read_json(memory / f"{key.value}.json")
        return tuple(ModelFile(row["name"], row["sha256"], row["size"]) for row in rows)
    except (InputError, TypeError, KeyError):
        return None


def _remember(memory: Path, key: Digest, files: tuple[ModelFile, ...]) -> None:
    rows = [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in files]
    # Written in place: the beginning of a JSON list is no JSON, so a half memory is none.
    try:
        with full_disk_said():
            memory.mkdir(parents=True, exist_ok=True)
            (memory / f"{key.value}.json").write_text(json.dumps(rows), encoding="utf-8")
    except OSError as error:
        raise UnavailableError(
            f"the cache cannot be used: {error.strerror}",
            where=str(memory),
            remedy="set ENGINEKEEPER_CACHE to a directory you may write to, with space left",
        ) from error
