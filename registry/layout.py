"""Where an artifact's documents lie in the store, so that a person finds them with `aws s3 ls`.

    engines/<model>/<recipe>/<target>/<platform>/<engine>/manifest.json
                                                         /key.json
                                                         /attestations/build-<envelope>.dsse.json
                                                         /attestations/verdict-<envelope>.dsse.json
                                                         /attestations/revocation-<envelope>.dsse.json
                                                         /attestations/summary-<envelope>.dsse.json
                                                         /attestations/waiver-<envelope>.dsse.json
                                                         /attestations/waiver-end-<envelope>.dsse.json
                                                         /verdicts/<document>.json
    checkpoints/<model>/<recipe>/<checkpoint>/manifest.json
    references/<model>/<suite>/<reference>/manifest.json
                                          /attestations/reference-<envelope>.dsse.json
    snapshot/current.dsse.json
    blobs/sha256/<first two digits>/<all 64 digits>

The platform is `cuda-<version>/driver-<version>`, as far as the engine's key has them: an engine
for a CPU has neither. What stands in angle brackets for a digest is its first twelve digits; the
document has all of it.
"""

from __future__ import annotations

from registry.digests import Digest
from registry.keys import EngineKey
from registry.names import check_component

MANIFEST = "manifest.json"
KEY = "key.json"
SUMMARY, WAIVER_END = "summary", "waiver-end"
"""How the statements are named that summarize verdicts, and that end waivers."""
QUARANTINE, RELEASE = "quarantine", "release"
"""How the statements are named that hold an engine, and that let it go."""


def engine_path(model: str, recipe: str, target: str, key: EngineKey, engine: Digest) -> str:
    """Returns the folder of an engine's documents."""
    versions = {"cuda": key.hard.get("cuda_runtime"), "driver": key.soft.get("driver")}
    platform = {name: f"{name}-{value}" for name, value in versions.items() if value is not None}
    return (
        f"engines/{_joined(model=model, recipe=recipe, target=target, **platform)}/{engine.short}"
    )


def checkpoint_path(model: str, recipe: str, checkpoint: Digest) -> str:
    """Returns the folder of a checkpoint's documents."""
    return f"checkpoints/{_joined(model=model, recipe=recipe)}/{checkpoint.short}"


def reference_path(model: str, suite: Digest, reference: Digest) -> str:
    """Returns the folder of a reference's documents."""
    return f"references/{_joined(model=model)}/{suite.short}/{reference.short}"


def attestation_name(folder: str, purpose: str, envelope: Digest) -> str:
    """Returns the name of a signed statement about the artifact in a folder."""
    return f"{attestation_prefix(folder, purpose)}{envelope.short}.dsse.json"


def attestation_prefix(folder: str, purpose: str) -> str:
    """Returns how the names of a purpose's statements about the artifact in a folder begin."""
    return f"{attestation_folder(folder)}{purpose}-"


def attestation_folder(folder: str) -> str:
    """Returns where the signed statements about the artifact in a folder lie."""
    return f"{folder}/attestations/"


def verdict_name(folder: str, document: Digest) -> str:
    """Returns the name of a verdict document on the engine in a folder."""
    return f"{folder}/verdicts/{document.short}.json"


def _joined(**parts: str) -> str:
    return "/".join(check_component(part, where=name) for name, part in parts.items())
