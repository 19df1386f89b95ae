"""Runs a bundle that the double of the PyTorch backend warmed up: by the checkpoint that it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginekeeper.building.runtime_caches import DESCRIPTION, bound_to
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from registry.digests import digest_file

_DECIDING = ("config.json", "hf_quant_config.json", "*.safetensors")


@dataclass(frozen=True)
class SimulatedBundle:
    """A bundle of the double, ready to be run."""

    directory: Path
    version: str

    def described(self) -> dict[str, Any]:
        """Returns what decides what it computes: bundles that agree in it compute the same."""
        files = sorted(path for pattern in _DECIDING for path in self.directory.glob(pattern))
        return {
            "files": {path.name: str(digest_file(path)) for path in files},
            "caches": asdict(bound_to(self.directory)),  # loaded, or refused, when it is asked
        }

    def unpack(self, _place: Path) -> Path:
        """Returns where its checkpoint lies: in itself."""
        return self.directory


def load_bundle(directory: Path, product: str, version: str) -> SimulatedBundle:
    """Opens a bundle of the double on a simulated GPU.

    Raises InputError for one of another GPU, and for whatever the double did not warm up.
    """
    path = directory / DESCRIPTION
    if read_json_object(path).get("simulated") is not True:
        raise InputError("not a bundle of the double", where=str(path), expected="simulated: true")
    if (found := bound_to(directory).gpu_product) != product:
        raise InputError(
            "the bundle was warmed up on another GPU",
            where=str(path),
            actual=found,
            expected=product,
            remedy="build it for this one",
        )
    return SimulatedBundle(directory, version)
