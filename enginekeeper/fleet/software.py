"""What of NVIDIA's software lies on a node, by the names of its files: nothing is loaded or run.

A library says its version in its file's name, a toolkit in its `version.json`, a Python package in
its `.dist-info`. Which of several a process loads is not known from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.fleet.inventory import Software

_NAMES = {
    "libnvinfer": "tensorrt", "libcudart": "cuda-runtime", "libnccl": "nccl", "libcudnn": "cudnn",
    "libcublas": "cublas",
}  # fmt: skip
_LIBRARY = re.compile(rf"({'|'.join(_NAMES)})\.so\.([0-9]+(?:\.[0-9]+)+)")
_COMPAT = re.compile(r"libcuda\.so\.([0-9]+(?:\.[0-9]+)+)")
_PACKAGE = re.compile(r"(tensorrt_llm|tensorrt|vllm)-([0-9][^-]*)\.dist-info")
_LIBRARIES = (
    "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/local/lib",
    "usr/local/tensorrt/lib", "usr/local/tensorrt/targets/x86_64-linux-gnu/lib",
)  # fmt: skip
_PYTHONS = ("usr/local/lib", "usr/lib", "opt/venv/lib")
_PROGRAMS = (
    "usr/bin/dockerd", "usr/bin/containerd", "usr/bin/crio", "usr/bin/podman",
    "usr/bin/nvidia-container-runtime", "usr/bin/nvidia-ctk", "usr/bin/tritonserver",
    "opt/tritonserver/bin/tritonserver",
)  # fmt: skip
_MOST = 200


def software(root: Path = Path("/")) -> tuple[Software, ...]:
    """Returns what was found below a root, each once, sorted; at most 200 of them."""
    found = {
        (one.name, one.version or "", one.path): one
        for one in (*_toolkits(root), *_libraries(root), *_packages(root), *_programs(root))
    }
    return tuple(found[name] for name in sorted(found)[:_MOST])


def _toolkits(root: Path) -> Iterator[Software]:
    for place in _glob(root / "usr/local", "cuda-[0-9]*"):
        if _is_link(place):
            continue  # cuda-13 to cuda-13.0
        version = _version_of(place / "version.json")
        if version is not None:
            yield Software("cuda-toolkit", version, _seen(place, root))
        for directory in (place / "lib64", *_glob(place, "targets/*/lib")):
            yield from _named(directory, root)
        for file in _glob(place / "compat", "libcuda.so.*"):
            if (match := _COMPAT.fullmatch(file.name)) and not _is_link(file):
                yield Software("cuda-compat", match[1], _seen(file, root))


def _libraries(root: Path) -> Iterator[Software]:
    for directory in _LIBRARIES:
        yield from _named(root / directory, root)


def _named(directory: Path, root: Path) -> Iterator[Software]:
    if _is_link(directory):
        return
    for file in _glob(directory, "lib*.so.*"):
        if (match := _LIBRARY.fullmatch(file.name)) and not _is_link(file):
            yield Software(_NAMES[match[1]], match[2], _seen(file, root))


def _packages(root: Path) -> Iterator[Software]:
    for place in _PYTHONS:
        for directory in ("python3*/dist-packages", "python3*/site-packages"):
            for info in _glob(root / place, f"{directory}/*.dist-info"):
                if match := _PACKAGE.fullmatch(info.name):
                    yield Software(f"python:{match[1]}", match[2], _seen(info, root))


def _programs(root: Path) -> Iterator[Software]:
    for program in _PROGRAMS:
        for path in _glob(root, program):
            yield Software(path.name, None, _seen(path, root))


def _version_of(file: Path) -> str | None:
    """Returns what a toolkit's version.json says of itself: `{"cuda": {"version": "13.0.1"}}`."""
    try:
        version = read_json_object(file)["cuda"]["version"]
    except (InputError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) and version.isprintable() else None


def _glob(directory: Path, pattern: str) -> list[Path]:
    """Returns what fits, sorted; nothing where the directory is not there or not to be read."""
    try:
        return [path for path in sorted(directory.glob(pattern)) if str(path).isprintable()]
    except OSError:
        return []


def _is_link(path: Path) -> bool:
    """Says whether a path is a link to what is listed by its own name, or may not be looked at."""
    try:
        return path.is_symlink()
    except OSError:  # a directory on the way is another user's
        return True


def _seen(path: Path, root: Path) -> str:
    """Returns a path as the node has it, whatever the root is called here."""
    return f"/{path.relative_to(root)}"
