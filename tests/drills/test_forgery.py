"""Whoever may write to the store or to the catalogue, and signs with keys nobody trusts."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from sqlalchemy import text

from registry.attestations import (
    BuildRecord,
    VerdictClaim,
    provenance,
    sign,
)
from registry.attestations import test_result as verdict_statement
from registry.blobs.interface import blob_name
from registry.bundles import write_bundle
from registry.digests import canonical_json, digest_bytes
from registry.errors import GateClosedError, IntegrityError, InvalidRecordError
from registry.evidence import Evidence, ModelFacts
from registry.exchange import import_bundle
from registry.manifests import Manifest
from registry.publishing import EnginePublication
from registry.types import Engine, EngineNames, Result
from registry.verification import build_parameters
from tests.drills.ground import CHANNEL, MODEL, Ground
from tests.drills.ledger import Ledger
from tests.factories.registry import CPU, START, WEIGHTS
from tests.fakes.damage import overwrite


def change(ground: Ground, statement: str) -> None:
    """Changes the catalogue, as its administrator could."""
    with ground.registry.catalogue._engine.begin() as connection:
        connection.execute(text(statement))


def refuses(ground: Ground, engine: Engine, tmp_path: Path) -> str:
    """Returns what is said when an engine is fetched, which must fail."""
    with pytest.raises((IntegrityError, InvalidRecordError)) as caught:
        ground.registry.fetch_engine(engine.digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def exchanged(manifest: dict[str, Any]) -> dict[str, Any]:
    """Gives the first file the digest of the second, whose bytes the store has."""
    first, second, *others = manifest["files"]
    return {**manifest, "files": [{**first, "digest": second["digest"]}, second, *others]}


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a digest exchanged": exchanged,
    "a path that climbs out": lambda manifest: {
        **manifest, "files": [{**one, "path": "../../escaped"} for one in manifest["files"]],
    },
    "a file left out": lambda manifest: {**manifest, "files": manifest["files"][:1]},
    "no JSON at all": lambda _manifest: [],
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_manifest_that_was_edited_is_not_used(
    ground: Ground, ledger: Ledger, tmp_path: Path, edit: str
) -> None:
    drill = ledger.drill("manifest edited", "written over in the store, four ways")
    victim = ground.live(ground.publication())
    name = f"{victim.path}/manifest.json"
    good = ground.registry.store.get_document(name)
    edited = canonical_json(EDITS[edit](json.loads(good)))
    assert edited != good
    overwrite(ground.registry.store, name, edited)
    assert "not the one that was signed" in refuses(ground, victim, tmp_path)
    assert not (tmp_path.parent / "escaped").exists()
    overwrite(ground.registry.store, name, good)
    drill.ran(ground.look(), edit)


@pytest.mark.parametrize("size", ["the same size", "another size"])
def test_a_blob_that_was_swapped_is_not_used(
    ground: Ground, ledger: Ledger, tmp_path: Path, size: str
) -> None:
    drill = ledger.drill(
        "blob swapped", "written over in the store, of the same size and of another"
    )
    publication = ground.publication()
    victim = ground.live(publication)
    (entry, *_) = [one for one in publication.manifest.files if one.path.endswith("pt2")]
    forged = bytes(entry.size) if size == "the same size" else b"malicious code"
    overwrite(ground.registry.store, blob_name(entry.digest), forged)
    assert "not those the digest names" in refuses(ground, victim, tmp_path)
    assert ground.registry.heal_engine(victim.digest, publication.directory) == [entry.path]
    drill.ran(ground.look(), size)


def signed_build(signer: CryptoSigner, publication: EnginePublication) -> bytes:
    """Returns the build statement on a publication's manifest, whoever signs it."""
    names = EngineNames("smollm2-135m", publication.recipe, publication.target, publication.variant)
    record = BuildRecord(
        "urn:evil", "run", START, START, parameters=build_parameters(names, WEIGHTS)
    )
    return sign(provenance(publication.manifest, publication.key, record), signer)


@pytest.mark.parametrize("who", ["a stranger", "the validator", "the simulated builder"])
def test_a_build_that_no_builder_signed_does_not_enter(
    ground: Ground, ledger: Ledger, who: str
) -> None:
    drill = ledger.drill(
        "build signed by an untrusted key",
        "by a stranger's key, by one trusted for something else, by one of the simulated world; "
        "published, and planted in the catalogue",
    )
    signers = ground.bench.signers
    signer = {
        "a stranger": CryptoSigner.generate_ed25519(),
        "the validator": signers.validator,
        "the simulated builder": signers.simulated_builder,
    }[who]
    publication = ground.publication()
    forged = replace(publication, provenance=signed_build(signer, publication))
    with pytest.raises(IntegrityError, match="trusted"):
        ground.registry.publish_engine(forged)
    drill.ran(ground.look(), who)
    real = ground.publish(publication)
    envelope = forged.provenance.decode().replace("'", "''")
    change(ground, f"UPDATE engines SET provenance = '{envelope}' WHERE digest = '{real.digest}'")  # noqa: S608
    ground.bench.judge(real)
    decision = ground.registry.gate(real.digest, CPU)
    assert (decision.is_open, decision.rule) == (False, "build-not-attested")
    with pytest.raises(IntegrityError):
        ground.registry.set_channel(CHANNEL, real.digest, CPU, actor="mallory")
    good = publication.provenance.decode().replace("'", "''")
    change(ground, f"UPDATE engines SET provenance = '{good}' WHERE digest = '{real.digest}'")  # noqa: S608
    ground.passed.add(real.digest)
    drill.ran(ground.look(), f"{who}, planted")


@pytest.mark.parametrize("who", ["a stranger", "the builder", "the simulated validator"])
def test_a_verdict_that_no_validator_signed_opens_no_gate(
    ground: Ground, ledger: Ledger, who: str
) -> None:
    drill = ledger.drill(
        "verdict signed by an untrusted key", "as above, with a verdict: recorded, and planted"
    )
    signers = ground.bench.signers
    signer = {
        "a stranger": CryptoSigner.generate_ed25519(),
        "the builder": signers.builder,
        "the simulated validator": signers.simulated_validator,
    }[who]
    engine = ground.publish(ground.publication())
    document = {"schema": 1, "result": "pass", "fidelity": {"result": "pass"},
                "quality": {"result": "pass"}, "summary": "pass: trust me"}  # fmt: skip
    claim = VerdictClaim(
        Result.PASS, CPU, digest_bytes(canonical_json(document)), START, engine.simulated,
        ("kl",), fidelity="pass", quality="pass", summary="pass: trust me",
    )  # fmt: skip
    envelope = sign(verdict_statement(engine.digest, claim), signer)
    with pytest.raises(IntegrityError, match="trusted"):
        ground.registry.record_verdict(engine.digest, document, envelope)
    drill.ran(ground.look(), who)
    ground.bench.judge(engine, Result.FAIL)
    change(ground, "UPDATE verdicts SET result = 'pass', fidelity = 'pass' WHERE result = 'fail'")
    decision = ground.registry.gate(engine.digest, CPU)
    assert (decision.is_open, decision.rule) == (False, "verdict-not-attested")
    with pytest.raises((GateClosedError, IntegrityError)):
        ground.registry.set_channel(CHANNEL, engine.digest, CPU, actor="mallory")
    change(ground, "UPDATE verdicts SET result = 'fail', fidelity = 'fail' WHERE result = 'pass'")
    drill.ran(ground.look(), f"{who}, planted")


PATHS = ("../escaped", "/etc/escaped", "a/../../escaped", "a//b", "a\\..\\b", "a/./b", "a\x00b")


def crooked(ground: Ground, path: str) -> EnginePublication:
    """Returns what a trusted builder that was taken over signs: a manifest with such a path."""
    publication = ground.publication()
    manifest = deepcopy(publication.manifest)
    object.__setattr__(manifest.files[0], "path", path)  # no FileEntry would be made with it
    unsigned = replace(publication, manifest=manifest)
    return replace(unsigned, provenance=signed_build(ground.bench.signers.builder, unsigned))


def evidence(publication: EnginePublication) -> Evidence:
    names = EngineNames(MODEL, publication.recipe, publication.target, publication.variant)
    facts = ModelFacts(WEIGHTS, MODEL, "test", "LlamaForCausalLM")
    envelope = publication.provenance.decode()
    return Evidence(publication.manifest, publication.key, facts, names, envelope)


def plant(ground: Ground, publication: EnginePublication) -> Engine:
    """Puts an engine into store and catalogue past everything that looks at it on the way in."""
    engine = evidence(publication).engine(START)
    good = ground.bench.registry.store
    for path in publication.directory.rglob("*"):
        if path.is_file():
            good.put_file(path)
    good.put_document(f"{engine.path}/manifest.json", publication.manifest.to_bytes())
    with ground.registry.catalogue.edit() as draft:
        return draft.add_engine(engine)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leaves_its_directory_is_refused_even_signed(
    local_ground: Ground, ledger: Ledger, tmp_path: Path, path: str
) -> None:
    drill = ledger.drill(
        "path traversal in a manifest",
        f"a manifest that the trusted builder signed, {len(PATHS)} paths: in a bundle that is "
        "imported; and planted in store and catalogue, fetched and put into a channel",
    )
    registry = local_ground.registry
    local_ground.live(local_ground.publication())
    publication = crooked(local_ground, path)
    planted = plant(local_ground, publication)
    registry.verify_engine(planted)  # the signature is good
    before = sorted(tmp_path.rglob("*"))
    assert "the path" in refuses(local_ground, planted, tmp_path)
    with pytest.raises(InvalidRecordError, match="the path"):
        registry.set_channel(CHANNEL, planted.digest, CPU, actor="mallory")
    assert not registry.gate(planted.digest, CPU).is_open
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/etc/escaped").exists()
    write_bundle(registry.store, evidence(publication), tmp_path / "bundle")
    change(local_ground, f"DELETE FROM engines WHERE digest = '{planted.digest}'")  # noqa: S608
    drill.ran(local_ground.look(), f"{path!r}, planted")
    with pytest.raises(InvalidRecordError, match="the path"):
        import_bundle(registry, tmp_path / "bundle", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    drill.ran(local_ground.look(), f"{path!r}, in a bundle")


LINKS = {
    "to a file": ("link", "/etc/passwd"),
    "to a directory": ("graphs/link", "/etc"),
    "in place of a file": ("config.json", "/etc/passwd"),
}


@pytest.mark.parametrize("link", LINKS)
def test_a_symbolic_link_is_neither_listed_nor_published(
    local_ground: Ground, ledger: Ledger, link: str
) -> None:
    drill = ledger.drill(
        "symbolic links in an engine", "to a file, to a directory, in place of a listed file"
    )
    victim = local_ground.live(local_ground.publication())
    publication = local_ground.publication()
    name, target = LINKS[link]
    (publication.directory / name).unlink(missing_ok=True)
    (publication.directory / name).symlink_to(target)
    with pytest.raises(InvalidRecordError, match="neither a regular file"):
        Manifest.of_directory(publication.directory, "engine", key=publication.key.digest())
    with pytest.raises(InvalidRecordError, match="neither a regular file"):
        local_ground.registry.heal_engine(victim.digest, publication.directory)
    if link == "in place of a file":
        with pytest.raises(IntegrityError):
            local_ground.registry.publish_engine(publication)
    else:  # its builder did not list the link: the engine is published without it
        local_ground.live(publication)
    drill.ran(local_ground.look(), link)


def test_a_link_where_files_are_fetched_to_is_not_followed(
    local_ground: Ground, ledger: Ledger, tmp_path: Path
) -> None:
    drill = ledger.drill(
        "symbolic links in an engine", "to a file, to a directory, in place of a listed file"
    )
    victim = local_ground.live(local_ground.publication())
    partial = tmp_path / ".out.fetching"
    (partial / "graphs").mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(b"dear")
    (partial / "graphs" / "prefill.pt2").symlink_to(tmp_path / "elsewhere")
    local_ground.registry.fetch_engine(victim.digest, tmp_path / "out")
    assert (tmp_path / "elsewhere").read_bytes() == b"dear"
    assert not (tmp_path / "out" / "graphs" / "prefill.pt2").is_symlink()
    drill.ran(local_ground.look(), "at the destination")
