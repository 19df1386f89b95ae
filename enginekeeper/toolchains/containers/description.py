"""Which toolchains of this host are container images: one small JSON file each, and its lock.

`ENGINEKEEPER_HOME/containers/NAME.json` says how NAME is run; `NAME.lock` beside it names what
runs, and takes the place of the toolchain's lock file. An image is named by its digest: a tag is
whatever somebody pushed last.

Example:
    {"schema": 1, "runtime": "docker", "image": "nvcr.io/nvidia/tensorrt-llm/release@sha256:…"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import Toolchain, containers_folder
from enginekeeper.toolchains.containers.kubernetes import Cluster
from registry.digests import Digest, digest_file
from registry.files import write_whole

SCHEMA = 1
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}")
_FIELDS = {"schema", "runtime", "image", "python", "cluster", "versions"}
_VERSIONS = {"tensorrt": r"\d+(\.\d+){3}", "nvidia-cuda-runtime": r"\d+\.\d+(\.\d+)?"}


class Runtime(StrEnum):
    """What runs containers."""

    DOCKER = "docker"
    PODMAN = "podman"
    APPTAINER = "apptainer"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class Container:
    """How a toolchain is run on this host."""

    runtime: Runtime
    image: str
    """By digest; for Apptainer the path of an image file."""

    python: str = "/usr/bin/python3"
    """The interpreter inside."""

    cluster: Cluster | None = None
    versions: tuple[tuple[str, str], ...] = ()
    """What the image is said to have; a build's engine is held against it."""

    def __post_init__(self) -> None:
        sif = self.runtime is Runtime.APPTAINER
        if not (Path(self.image).is_absolute() if sif else _PINNED.fullmatch(self.image)):
            raise InputError(
                "an image that is not pinned",
                actual=self.image[:300],
                expected="the path of an image file" if sif else "NAME@sha256:DIGEST",
                remedy="docker images --digests NAME",
            )
        if not self.python.startswith("/"):
            raise InputError("the interpreter inside is a path", actual=self.python[:100])
        if (self.cluster is not None) is not (self.runtime is Runtime.KUBERNETES):
            raise InputError(
                "a cluster is named for jobs in Kubernetes, and for nothing else",
                actual=f"runtime {self.runtime}",
            )
        for name, version in self.versions:
            if name not in _VERSIONS or not re.fullmatch(_VERSIONS[name], version):
                raise InputError(
                    "not a version that an image can be said to have",
                    actual=f"{name} {version}"[:100],
                    expected="tensorrt with four parts, nvidia-cuda-runtime with two or three",
                )

    def as_dict(self) -> dict[str, Any]:
        """Returns the description as its file has it."""
        cluster = self.cluster
        where = {} if cluster is None else {
            "cluster": {
                "namespace": cluster.namespace, "claim": cluster.claim, "at": str(cluster.at),
            }
        }  # fmt: skip
        return {
            "schema": SCHEMA, "runtime": str(self.runtime), "image": self.image,
            "python": self.python, "versions": dict(self.versions), **where,
        }  # fmt: skip

    def content(self) -> Digest | None:
        """Returns the digest of an image that is a file; None for one that a registry names."""
        return digest_file(Path(self.image)) if self.runtime is Runtime.APPTAINER else None


def container_of(name: str, settings: Settings) -> Container | None:
    """Returns how a toolchain is run in a container here; None where it is not."""
    path = containers_folder(settings) / f"{name}.json"
    if not path.is_file():
        return None
    document = read_json_object(path)
    try:
        if document["schema"] != SCHEMA or not document.keys() <= _FIELDS:
            raise InputError(
                "not a description of a container that this version reads",
                where=str(path),
                actual=f"schema {document['schema']}, fields {', '.join(sorted(document))}"[:300],
                expected=f"schema {SCHEMA}, fields {', '.join(sorted(_FIELDS))}",
            )
        cluster = document.get("cluster")
        return Container(
            runtime=Runtime(document["runtime"]),
            image=document["image"],
            python=document.get("python", Container.python),
            cluster=None
            if cluster is None
            else Cluster(cluster["namespace"], cluster["claim"], Path(cluster["at"])),
            versions=tuple(sorted(document.get("versions", {}).items())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"not a description of a container: {error}",
            where=str(path),
            remedy=f"write it again: enginekeeper toolchain container {name}",
        ) from error


def described(
    toolchain: Toolchain, runtime: str | None, image: str | None, python: str, *,
    cluster: tuple[str | None, str | None, Path | None], versions: Mapping[str, str | None],
) -> Container:  # fmt: skip
    """Returns a description from what somebody said; raises InputError for what is missing."""
    if toolchain.simulated:
        raise InputError(
            "doubles run on this host and in no container",
            where=toolchain.name,
            remedy="name the toolchain that it stands for",
        )
    if runtime is None or image is None:
        raise InputError(
            "a container takes a runtime and an image",
            actual=f"runtime {runtime}, image {image}",
            remedy="give both --runtime and --image",
        )
    namespace, claim, at = cluster
    there = None
    if namespace is not None and claim is not None and at is not None:
        there = Cluster(namespace, claim, at.absolute())
    elif any(part is not None for part in cluster):
        raise InputError(
            "a cluster takes a namespace, a claim and where its volume is mounted here",
            remedy="give all of --namespace, --claim and --at",
        )
    known = tuple(sorted((name, said) for name, said in versions.items() if said is not None))
    return Container(Runtime(runtime), image, python, there, known)


def lock_text(container: Container) -> str:
    """Returns what stands for a container in a toolchain's lock file."""
    content = container.content()
    pinned = [f"{name}=={version}" for name, version in container.versions]
    image = container.image if content is None else str(content)
    return "\n".join((f"# image {image}", f"# python {container.python}", *pinned, ""))


def write_container(name: str, container: Container, settings: Settings) -> Path:
    """Lets a toolchain run in a container from now on; returns where that is written."""
    folder = containers_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.lock", lock_text(container).encode())
    path = folder / f"{name}.json"
    write_whole(path, (json.dumps(container.as_dict(), indent=2) + "\n").encode())
    return path


def remove_container(name: str, settings: Settings) -> bool:
    """Lets a toolchain run on the host again; says whether it did not."""
    folder = containers_folder(settings)
    there = (folder / f"{name}.json").is_file()
    for suffix in ("json", "lock"):  # what is read first goes first
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return there
