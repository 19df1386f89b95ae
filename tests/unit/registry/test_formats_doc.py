"""docs/formats.md names every field, folder and predicate that the code writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import attestations, layout
from registry.attestations import PREDICATES, sign
from registry.blobs import s3_probe
from registry.digests import digest_bytes
from registry.envelopes import PAYLOAD_TYPE, read_envelope
from registry.freshness import SnapshotReader
from registry.keys import HARD_FIELDS, SCHEMES, SOFT_FIELDS, EngineKey
from registry.lifecycle import quarantine, release, revoke
from registry.manifests import FileEntry, Manifest
from registry.publishing import CheckpointPublication, signed_waiver
from registry.revocations import Revocation, revocation
from registry.seen import Memory
from registry.snapshots import RegistryState, sealed
from registry.trust import Purpose
from registry.types import Engine
from registry.waivers import ending_statement, waiver_statement
from tests.factories.registry import START, WEIGHTS, Signers, Workbench, cpu_key, waiver_of
from tests.factories.signed_engines import SignedEngines
from tests.factories.timing import shelved

TEXT = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
DIGEST = digest_bytes(b"")
SIGNERS = Signers()
MANIFEST = Manifest("engine", (FileEntry("a", 0, DIGEST),)).as_dict()


@pytest.mark.parametrize(
    "name",
    [
        *HARD_FIELDS, *SOFT_FIELDS, *MANIFEST, *MANIFEST["files"][0], *Purpose,
        *PREDICATES.values(), *SCHEMES, PAYLOAD_TYPE,
        attestations.BUILD_TYPE, attestations.REFERENCE_TYPE, *attestations.BUILD_TYPES.values(),
    ],
)  # fmt: skip
def test_the_document_names_it(name: str) -> None:
    assert f"`{name}`" in TEXT


def test_the_document_says_what_a_server_must_support() -> None:
    for name, _ in s3_probe._FEATURES.values():
        assert name in TEXT


def shown(text: str) -> set[str]:
    """Returns the paths of a drawn layout, each from the top."""
    begin = text.index("    engines/<model>")
    lines = text[begin : text.index("\n\n", begin)].splitlines()
    paths, last = set(), ""
    for line in lines:
        kept = len(line) - len(line.lstrip())
        last = line[4:] if kept == 4 else last[: kept - 4] + line.lstrip()
        paths.add(last)
    return paths


def written(bench: Workbench) -> set[str]:
    """Writes one of everything, and returns where it lies, with words for what varies."""
    engine = bench.publish(cuda_runtime="12.9", driver="580.95.05")
    bench.judge(engine)
    bench.end(bench.waive(engine, "never-judged"))
    quarantine(bench.registry, engine, "odd answers")
    release(bench.registry, engine, "was the client")
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    bench.record()
    shelved(bench)
    root = bench.directory / "checkpoint"
    root.mkdir()
    (root / "config.json").write_bytes(b"{}")
    bench.registry.publish_checkpoint(CheckpointPublication(root, WEIGHTS, "w8a16"))
    registry, week = bench.registry, timedelta(days=7)
    SnapshotReader(Memory(bench.directory / "seen.json")).publish(
        registry.store, registry.trust, registry.state, week, (bench.signers.keeper,)
    )
    blobs = bench.directory / "store"
    names = {*registry.store.list_documents()}
    names |= {str(one.relative_to(blobs)) for one in blobs.glob("blobs/sha256/*/*")}
    return {_in_words(name) for name in names}


def _in_words(name: str) -> str:
    words = (
        (r"^engines/[^/]+/[^/]+/[^/]+/cuda-[^/]+/driver-[^/]+/[0-9a-f]{12}",
         "engines/<model>/<recipe>/<target>/cuda-<version>/driver-<version>/<engine>"),
        (r"^checkpoints/[^/]+/[^/]+/[0-9a-f]{12}", "checkpoints/<model>/<recipe>/<checkpoint>"),
        (r"^references/[^/]+/[0-9a-f]{12}/[0-9a-f]{12}", "references/<model>/<suite>/<reference>"),
        (r"^timing-caches/[^/]+/[^/]+/[^/]+/[0-9a-f]{12}",
         "timing-caches/<gpu>/<tensorrt>/<software>/<cache>"),
        (r"^statements/[0-9a-f]{64}", "statements/<all 64 digits of the engine>"),
        (r"-[0-9a-f]{12}\.dsse\.json$", "-<envelope>.dsse.json"),
        (r"/verdicts/[0-9a-f]{12}\.json$", "/verdicts/<document>.json"),
        (r"[0-9a-f]{2}/[0-9a-f]{64}$", "<first two digits>/<all 64 digits>"),
    )  # fmt: skip
    for pattern, word in words:
        name = re.sub(pattern, word, name)
    return name


def test_the_document_shows_where_everything_lies_that_is_written(bench: Workbench) -> None:
    assert shown(TEXT) == written(bench)


def test_the_code_draws_the_same_layout() -> None:
    def names(text: str) -> set[str]:
        lines = {one.strip() for one in text.splitlines()}
        return {one for one in lines if one.startswith("/") and one.endswith(".json")}

    assert names(layout.__doc__ or "") == names(TEXT)


def statements(engine: Engine) -> dict[str, Mapping[str, Any]]:
    """Returns a predicate of each kind of our own, by its type."""
    grant = waiver_of("never-judged")
    waiver = signed_waiver(engine, sign(waiver_statement(engine.digest, grant), SIGNERS.approver),
                           SIGNERS.trust, START)  # fmt: skip
    made = (
        waiver_statement(engine.digest, grant),
        ending_statement(waiver, reason="r", ended_by="anna", at=START),
        revocation(engine, Revocation("r", "anna", START)),
    )
    state = sealed(RegistryState(), 1, START, START + timedelta(days=1), SIGNERS.keeper)
    payload = read_envelope(state).payload
    return {
        **{one.predicate_type: one.predicate for one in made},
        PREDICATES[Purpose.SNAPSHOT]: json.loads(payload)["predicate"],
    }


def test_each_statement_of_our_own_has_a_row_with_its_fields() -> None:
    engine = SignedEngines(SIGNERS).engine(cpu_key())
    for kind, predicate in statements(engine).items():
        (row,) = [one for one in TEXT.splitlines() if one.startswith("| ") and f"`{kind}`" in one]
        assert [name for name in predicate if f"`{name}`" not in row] == []


def test_the_document_shows_how_the_fields_of_a_key_place_an_engine() -> None:
    cpu = EngineKey.of(builder="inductor", weights=str(DIGEST))
    assert layout.engine_path("m", "r", "cpu", cpu, DIGEST) == f"engines/m/r/cpu/{DIGEST.short}"
    assert "engines/<model>/<recipe>/cpu/<engine>/" in TEXT
