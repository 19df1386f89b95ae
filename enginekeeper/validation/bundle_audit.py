"""Audits of a vLLM serving bundle: is it the source, and is it served as it was pinned.

Rules:

- every file of the model is byte for byte the source's, and there is no other: then its weights
  and its config need no audit of their own, they are what the reference was made of;
- what vLLM reads (`serve.yaml`) says what was pinned, and vLLM made nothing else of it;
- no code of the model is run: a bundle that asks for it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginekeeper.configs.vllm_bundle import CONFIG, MODEL, read_bundle, read_serve
from enginekeeper.validation.findings import AuditReport, Finding
from registry.digests import digest_file


def audit_bundle(directory: Path, source: Mapping[str, str]) -> tuple[AuditReport, ...]:
    """Audits config and weights; `source` has the SHA-256 of every file of the source.

    Raises InputError for a directory that cannot be read as a bundle at all.
    """
    document = read_bundle(directory)
    config = AuditReport("config", tuple(_config(directory, document)), dict(document["serve"]))
    files = tuple(_files(directory / MODEL, source))
    return config, AuditReport("weights", files, {"files": len(source)})


def _config(directory: Path, document: Mapping[str, Any]) -> Iterator[Finding]:
    pinned, effective = document["serve"], document.get("effective") or {}
    read = read_serve(directory / CONFIG)
    for name in sorted({*pinned, *read}):
        if read.get(name) != pinned.get(name):
            message = "what vLLM reads is not what was pinned"
            yield _finding("config.serve", name, message, read.get(name), pinned.get(name))
    for name, value in sorted(effective.items()):
        if value != pinned.get(name):
            message = "vLLM made something else of the option"
            yield _finding("config.effective", name, message, value, pinned.get(name))
    if pinned.get("trust_remote_code") is not False:
        message = "the bundle lets code of the model run"
        actual = pinned.get("trust_remote_code")
        yield _finding("config.remote_code", "trust_remote_code", message, actual, expected=False)


def _files(model: Path, source: Mapping[str, str]) -> Iterator[Finding]:
    there = {path.relative_to(model).as_posix() for path in model.rglob("*") if not path.is_dir()}
    for name in sorted(there - source.keys()):
        yield _finding("weights.files", name, "the source has no such file", "a file", "none")
    for name in sorted(source):
        found = digest_file(model / name).value if name in there else None
        if found != source[name]:
            message = "not the file that the reference was made of"
            yield _finding("weights.files", name, message, found, source[name])


def _finding(check: str, where: str, message: str, actual: object, expected: object) -> Finding:
    return Finding(check, "fail", where, message, actual, expected)
