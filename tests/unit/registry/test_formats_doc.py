"""docs/formats.md names every field, folder and predicate that the code writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import attestations, layout
from registry.attestations import PREDICATES
from registry.blobs import s3_probe
from registry.digests import digest_bytes
from registry.envelopes import PAYLOAD_TYPE
from registry.keys import HARD_FIELDS, SCHEMES, SOFT_FIELDS, EngineKey
from registry.manifests import FileEntry, Manifest
from registry.trust import Purpose

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
DIGEST = digest_bytes(b"")
MANIFEST = Manifest("engine", (FileEntry("a", 0, DIGEST),)).as_dict()


@pytest.mark.parametrize(
    "name",
    [
        *HARD_FIELDS, *SOFT_FIELDS, *MANIFEST, *MANIFEST["files"][0], *Purpose,
        *PREDICATES.values(), *SCHEMES, PAYLOAD_TYPE,
        attestations.BUILD_TYPE, attestations.REFERENCE_TYPE,
    ],
)  # fmt: skip
def test_the_document_names_it(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_the_document_says_what_a_server_must_support() -> None:
    for name, _ in s3_probe._FEATURES.values():
        assert name in TEXT


def test_the_document_shows_the_layout() -> None:
    key = EngineKey.of(
        builder="tensorrt_llm", weights=str(DIGEST), cuda_runtime="12.9", driver="580.95.05"
    )
    folder = layout.engine_path("m", "r", "t", key, DIGEST)
    assert folder == f"engines/m/r/t/cuda-12.9/driver-580.95.05/{DIGEST.short}"
    shown = TEXT.replace(
        "<model>/<recipe>/<target>/cuda-<version>/driver-<version>/<engine>",
        folder.removeprefix("engines/"),
    )
    assert f"{folder}/{layout.MANIFEST}" in shown
    for name in (f"/{layout.KEY}", "/attestations/build-", "/verdicts/"):
        assert name in shown
    assert layout.attestation_name(folder, "build", DIGEST).endswith(
        f"build-{DIGEST.short}.dsse.json"
    )
    assert layout.verdict_name(folder, DIGEST) == f"{folder}/verdicts/{DIGEST.short}.json"
    cpu = EngineKey.of(builder="inductor", weights=str(DIGEST))
    assert layout.engine_path("m", "r", "cpu", cpu, DIGEST) == f"engines/m/r/cpu/{DIGEST.short}"
    assert layout.reference_path("m", DIGEST, DIGEST).startswith("references/m/")
    assert "/attestations/reference-" in TEXT
    assert layout.checkpoint_path("m", "r", DIGEST).startswith("checkpoints/m/r/")
