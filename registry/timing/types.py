"""What a timing cache was measured on, and a cache as the catalogue knows it.

Example:
    key = TimingKey("NVIDIA H100 80GB HBM3", "9.0", "10.14.1.48", "13.0", "13.0")
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from registry.digests import Digest, digest_document
from registry.errors import InvalidRecordError
from registry.manifests import Manifest
from registry.types import Entity

MANIFEST_KIND = "timing-cache"
FILE = "model.cache"
"""The one file of the artifact, named as `trtllm-build` names it."""

_FORMS = {
    "gpu": (re.compile(r"\S[^\x00-\x1f\x7f]{0,127}"), "the product's name"),
    "compute_capability": (re.compile(r"\d{1,3}\.\d"), "such as 9.0"),
    "tensorrt": (re.compile(r"\d+(\.\d+){3}"), "all four parts, such as 10.14.1.48"),
    "cuda_runtime": (re.compile(r"\d+\.\d+"), "major.minor, such as 13.0"),
    "cuda_driver": (re.compile(r"\d+\.\d+"), "major.minor, such as 13.0"),
}


@dataclass(frozen=True)
class TimingKey(Entity):
    """Where a cache was measured; one of another key is never given to a build.

    TensorRT itself checks less: its header does not have the CUDA versions.
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    cuda_runtime: str
    """Of the toolchain."""

    cuda_driver: str
    """The newest CUDA of the driver's API (`cudaDriverGetVersion`), not the driver's version."""

    def __post_init__(self) -> None:
        for name, (form, expected) in _FORMS.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not form.fullmatch(value):
                raise InvalidRecordError(
                    "a timing cache cannot be kept for this",
                    where=f"timing key: {name}",
                    actual=repr(value)[:200],
                    expected=expected,
                )

    def document(self) -> dict[str, Any]:
        """Returns the key as it is signed."""
        return asdict(self)

    def digest(self) -> Digest:
        """Names the key."""
        return digest_document(self.document(), "ek-timing-v1")

    def __str__(self) -> str:
        return (
            f"{self.gpu} (compute capability {self.compute_capability}), TensorRT {self.tensorrt}, "
            f"CUDA {self.cuda_runtime}, driver API {self.cuda_driver}"
        )


@dataclass(frozen=True)
class TimingCache(Entity):
    """A cache that a builder signed; its id is its manifest's digest."""

    digest: Digest
    key: TimingKey
    grown_from: Digest | None
    """The cache that the build started with; None where there was none."""

    size: int
    path: str
    provenance: str
    """DSSE envelope of the builder's statement."""

    simulated: bool
    recorded_at: datetime


@dataclass(frozen=True)
class TimingPublication:
    """A cache to be published, with the builder's signed statement about it."""

    directory: Path
    """Holds the file and nothing else."""

    manifest: Manifest
    key: TimingKey
    provenance: bytes
    grown_from: Digest | None = None
