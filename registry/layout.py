"""Where an artifact's documents lie in the store, so that a person finds them with `aws s3 ls`.

    engines/<model>/<recipe>/<target>/<platform>/<engine>/manifest.json
                                                         /key.json
                                                         /attestations/build-<envelope>.dsse.json
    statements/<all 64 digits of the engine>/verdict-<envelope>.dsse.json
                                            /revocation-<envelope>.dsse.json
                                            /quarantine-<envelope>.dsse.json
                                            /release-<envelope>.dsse.json
                                            /summary-<envelope>.dsse.json
                                            /waiver-<envelope>.dsse.json
                                            /waiver-end-<envelope>.dsse.json
                                            /verdicts/<document>.json
    statements/gathered.json
    checkpoints/<model>/<recipe>/<checkpoint>/manifest.json
    references/<model>/<suite>/<reference>/manifest.json
                                          /attestations/reference-<envelope>.dsse.json
    timing-caches/<gpu>/<tensorrt>/<software>/<cache>/manifest.json
                                                     /attestations/build-<envelope>.dsse.json
    snapshot/current.dsse.json
    blobs/sha256/<first two digits>/<all 64 digits>

The platform is `cuda-<version>/driver-<version>`, as far as the engine's key has them: an engine
for a CPU has neither. What stands in angle brackets for a digest is its first twelve digits; the
document has all of it.

Where an engine's files are is for a person to find; the same bytes may have been built twice, under
two drivers, and lie where the first was. What is signed of them lies where their digest alone
decides, so that it is found whatever they were built under.
"""

from __future__ import annotations

from registry.digests import Digest
from registry.keys import EngineKey
from registry.names import check_component

MANIFEST = "manifest.json"
TIMING = "timing-caches"
KEY = "key.json"
STATEMENTS = "statements"
GATHERED = f"{STATEMENTS}/gathered.json"
"""Says that what stores from before have in the folders of engines was copied from there."""
SUMMARY, WAIVER_END = "summary", "waiver-end"
"""How the statements are named that summarize verdicts, and that end waivers."""
QUARANTINE, RELEASE = "quarantine", "release"
"""How the statements are named that hold an engine, and that let it go."""


def engine_path(model: str, recipe: str, target: str, key: EngineKey, engine: Digest) -> str:
    """Returns the folder of an engine's documents."""
    root = f"engines/{_joined(model=model, recipe=recipe, target=target)}"
    versions = {"cuda": key.hard.get("cuda_runtime"), "driver": key.soft.get("driver")}
    platform = {name: f"{name}-{value}" for name, value in versions.items() if value is not None}
    return "/".join(filter(None, (root, _joined(**platform), engine.short)))


def checkpoint_path(model: str, recipe: str, checkpoint: Digest) -> str:
    """Returns the folder of a checkpoint's documents."""
    return f"checkpoints/{_joined(model=model, recipe=recipe)}/{checkpoint.short}"


def reference_path(model: str, suite: Digest, reference: Digest) -> str:
    """Returns the folder of a reference's documents."""
    return f"references/{_joined(model=model)}/{suite.short}/{reference.short}"


def timing_path(gpu: str, tensorrt: str, software: str, cache: Digest) -> str:
    """Returns the folder of a timing cache's documents."""
    return f"{TIMING}/{_joined(gpu=gpu, tensorrt=tensorrt, software=software)}/{cache.short}"


def attestation_name(folder: str, purpose: str, envelope: Digest) -> str:
    """Returns the name of the statement that says how the artifact in a folder was made."""
    return f"{attestation_folder(folder)}{purpose}-{envelope.short}.dsse.json"


def attestation_folder(folder: str) -> str:
    """Returns where statements lie in an artifact's folder; all of an engine's did once."""
    return f"{folder}/attestations/"


def statement_folder(engine: Digest) -> str:
    """Returns where what is signed of an engine lies: verdicts, waivers, revocations."""
    return f"{STATEMENTS}/{engine.value}/"


def inheritance_folder(short: str) -> str:
    """Returns where lies what older folders had of an engine of which only the short is known."""
    return f"{STATEMENTS}/{short}/"


def statement_name(engine: Digest, kind: str, envelope: Digest) -> str:
    """Returns the name of a signed statement about an engine."""
    return f"{statement_folder(engine)}{kind}-{envelope.short}.dsse.json"


def verdict_name(engine: Digest, document: Digest) -> str:
    """Returns the name of a verdict document on an engine."""
    return f"{statement_folder(engine)}verdicts/{document.short}.json"


def _joined(**parts: str) -> str:
    return "/".join(check_component(part, where=name) for name, part in parts.items())
