"""`ek waiver`: granted by name only, shown wherever the engine is shown, ended by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from enginekeeper.cli._errors import ExitCode
from registry.attestations import BuildRecord, provenance, sign
from registry.envelopes import countersign
from registry.environments import CpuEnvironment
from registry.manifests import Manifest
from registry.publishing import EnginePublication
from registry.signing import TRUST_FILE, create_key, open_signer
from registry.trust import Purpose
from registry.trust_file import change_trust
from registry.types import Engine, EngineNames, Result
from registry.verification import build_parameters
from tests.factories.benches import RUN, Site, variants_of
from tests.factories.registry import WEIGHTS, cpu_key

Ek = Callable[..., Any]
UNTIL = (datetime.now(UTC) + timedelta(days=2)).isoformat()


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return site.publish(variants_of(tmp_path)[0])


@pytest.fixture
def approver(ek: Ek, engine: Engine) -> str:
    """Makes an approver here; the first signature made the other keys."""
    assert ek("engine", "show", engine.digest.short).code == ExitCode.OK
    made = ek("key", "create", "approver", "--json").json
    assert ek("key", "trust", "approver").code == ExitCode.OK
    return str(made["keyid"])


def grant(ek: Ek, engine: Engine, *more: object) -> Any:  # noqa: ANN401 - what was said
    return ek(
        "waiver", "grant", engine.digest.short, "--rule", "never-judged", "--reason", "demo today",
        "--until", UNTIL, *more,
    )  # fmt: skip


def test_nobody_grants_a_waiver_by_the_way(ek: Ek, engine: Engine) -> None:
    said = grant(ek, engine)
    assert (said.code, "key create approver" in said.err) == (ExitCode.NOT_FOUND, True)


@pytest.mark.usefixtures("approver")
def test_a_waiver_is_shown_wherever_the_engine_is_shown(
    ek: Ek, engine: Engine, tmp_path: Path
) -> None:
    assert ek("gate", engine.digest.short).code == ExitCode.FAIL
    assert grant(ek, engine).code == ExitCode.OK
    ek("engine", "fetch", engine.digest.short, "--to", tmp_path / "here")
    said = ek("gate", engine.digest.short)
    assert said.code == ExitCode.OK
    for shown in (said.out, ek("engine", "show", engine.digest.short).out, ek("where").out,
                  ek("waiver", "list").out):  # fmt: skip
        assert "demo today" in shown
        assert "never-judged" in shown
    assert "never-judged" in ek("engine", "list").out
    assert ek("gate", engine.digest.short, "--json").json["rule"] == "waived"


@pytest.mark.usefixtures("approver")
def test_a_waiver_counts_here_unless_it_says_elsewhere(
    ek: Ek, engine: Engine, tmp_path: Path
) -> None:
    node = tmp_path / "node.json"
    node.write_text(json.dumps(CpuEnvironment(("avx2",), "2.12.0").as_dict()))
    grant(ek, engine, "--environment", node)
    assert ek("gate", engine.digest.short).code == ExitCode.FAIL
    grant(ek, engine, "--everywhere")
    assert ek("gate", engine.digest.short).code == ExitCode.OK


@pytest.mark.usefixtures("approver")
def test_a_failure_that_comes_after_the_waived_one_closes_the_gate(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)

    def waived(*more: object) -> Any:  # noqa: ANN401 - what was said
        return ek("waiver", "grant", engine.digest.short, "--rule", "verdict-failed", "--reason",
                  "demo today", "--until", UNTIL, "--json", *more)  # fmt: skip

    assert waived().code == ExitCode.NOT_FOUND  # it was not judged here
    first = site.judge(engine, variant, Result.FAIL)
    assert waived("--everywhere").code == ExitCode.NOT_FOUND  # which of them?
    assert waived().json["verdict"] == first.digest.short
    assert first.digest.short in ek("waiver", "list").out
    assert ek("gate", engine.digest.short).code == ExitCode.OK
    second = site.judge(engine, variant, Result.FAIL, run=2)
    assert ek("gate", engine.digest.short).code == ExitCode.FAIL
    named = waived("--everywhere", "--verdict", second.digest.short)
    assert (named.json["verdict"], named.json["where"]) == (second.digest.short, "everywhere")
    assert ek("gate", engine.digest.short).code == ExitCode.OK
    site.judge(engine, variant, Result.FAIL, run=3)
    assert waived("--any-verdict").json["verdict"] is None
    assert ek("gate", engine.digest.short).code == ExitCode.OK


@pytest.mark.usefixtures("approver")
def test_a_revoked_waiver_closes_the_gate(ek: Ek, engine: Engine) -> None:
    waiver = grant(ek, engine, "--json").json["waiver"]
    dry = ek("waiver", "revoke", waiver, "--reason", "fixed", "--dry-run", "--json")
    assert (dry.json["state"], ek("gate", engine.digest.short).code) == ("in force", ExitCode.OK)
    said = ek("waiver", "revoke", waiver, "--reason", "fixed", "--json")
    assert (said.code, said.json["state"]) == (ExitCode.OK, "revoked")
    assert ek("gate", engine.digest.short).code == ExitCode.FAIL
    (row,) = ek("waiver", "list", "--engine", engine.digest.short, "--json").json
    assert row["state"] == "revoked"


@pytest.mark.usefixtures("approver")
@pytest.mark.parametrize("rule", ["build-not-attested", "simulated-on-real-node", "nonsense"])
def test_what_cannot_be_waived_is_refused(ek: Ek, engine: Engine, rule: str) -> None:
    said = ek("waiver", "grant", engine.digest.short, "--rule", rule, "--reason", "x",
              "--until", UNTIL)  # fmt: skip
    assert said.code == ExitCode.INVALID_INPUT
    assert ek("waiver", "list", "--json").json == []


def test_two_approvers_sign_one_waiver(
    ek: Ek, site: Site, engine: Engine, approver: str, tmp_path: Path
) -> None:
    other = create_key(tmp_path / "other", Purpose.WAIVER)
    path, draft = site.bench.keys / TRUST_FILE, tmp_path / "waiver.json"
    document = json.loads(path.read_text())
    document["thresholds"] = {"waiver": 2}
    document["keys"].append(other.as_dict())
    path.write_text(json.dumps(document))
    assert grant(ek, engine).code == ExitCode.INTEGRITY
    assert grant(ek, engine, "--to", draft).code == ExitCode.OK
    shown = ek("waiver", "add", draft)  # there is nobody to ask
    assert (shown.code, engine.digest.value in shown.err) == (ExitCode.USAGE, True)
    alone = ek("waiver", "add", draft, "--dry-run", "--json").json
    assert ek("waiver", "add", "--yes", draft, "--json").json["signers"] == [approver]
    assert (alone["signers"], ek("waiver", "list", "--json").json) == ([approver], [])
    (tmp_path / "other" / "approver.pem").replace(site.bench.keys / "approver.pem")
    assert ek("waiver", "add", "--yes", draft).code == ExitCode.OK
    assert ek("gate", engine.digest.short).code == ExitCode.OK


@pytest.mark.usefixtures("approver")
def test_only_approvers_make_a_waiver_enough(ek: Ek, site: Site, engine: Engine) -> None:
    change_trust(
        site.bench.keys / TRUST_FILE, lambda now: replace(now, thresholds={Purpose.WAIVER: 2})
    )
    draft = site.directory / "waiver.json"
    assert grant(ek, engine, "--to", draft, "--json").json["missing"] == 1
    stranger = CryptoSigner.generate_ed25519()
    draft.write_bytes(countersign(draft.read_bytes(), stranger))
    said = ek("waiver", "add", "--yes", draft, "--json")
    assert (said.code, said.json["missing"]) == (ExitCode.OK, 1)
    assert stranger.public_key.keyid not in said.json["signers"]
    assert ek("waiver", "list", "--json").json == []


def publish_simulated(site: Site) -> Engine:
    built = site.built(variants_of(site.directory)[0])
    key = cpu_key()  # whatever builds: it is the manifest that says who is simulated
    manifest = Manifest.of_directory(built.directory, "engine", key=key.digest(), simulated=True)
    names = EngineNames("tiny", "none", "cpu", "tiny.none.tp1.cpu")
    record = BuildRecord(
        "urn:test:builder", "run-1", RUN.started_at, RUN.finished_at,
        parameters=build_parameters(names, WEIGHTS),
    )  # fmt: skip
    signer = open_signer(site.bench.keys, Purpose.BUILD, simulated=True)
    envelope = sign(provenance(manifest, key, record), signer)
    return site.bench.registry.publish_engine(
        EnginePublication(
            built.directory, manifest, key, envelope, WEIGHTS, names.recipe, names.target,
            names.variant,
        )
    )  # fmt: skip


def test_a_waiver_of_a_simulated_engine_is_of_the_simulated_world(ek: Ek, site: Site) -> None:
    engine, draft = publish_simulated(site), site.directory / "waiver.json"
    made, _ = (
        ek("key", "create", "approver", *options, "--json").json
        for options in (("--simulated",), ())
    )
    for options in (("--simulated",), ()):
        assert ek("key", "trust", "approver", *options).code == ExitCode.OK
    assert made["root"] == "simulated"
    assert grant(ek, engine, "--to", draft, "--json").json["signers"] == [made["keyid"]]
    added = ek("waiver", "add", "--yes", draft, "--json")
    assert (added.code, added.json["state"]) == (ExitCode.OK, "in force")
    ended = ek("waiver", "revoke", added.json["waiver"], "--reason", "done", "--json")
    assert (ended.code, ended.json["state"]) == (ExitCode.OK, "revoked")


def test_without_an_approver_of_the_simulated_world_the_error_says_how_to_make_one(
    ek: Ek, site: Site
) -> None:
    said = grant(ek, publish_simulated(site))
    assert said.code == ExitCode.NOT_FOUND
    assert "key create approver --simulated" in said.err


@pytest.mark.usefixtures("approver")
@pytest.mark.parametrize("text", ["", "{}", '{"payload":"","payloadType":"x","signatures":[]}'])
def test_what_is_no_waiver_is_not_signed(ek: Ek, tmp_path: Path, text: str) -> None:
    draft = tmp_path / "waiver.json"
    draft.write_text(text)
    assert ek("waiver", "add", "--yes", draft).code == ExitCode.INTEGRITY
    assert draft.read_text() == text
