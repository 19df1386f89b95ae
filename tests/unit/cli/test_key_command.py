"""`ek key`: reading makes no keys, and a trust file is extended by name only."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli.key import role_argument
from enginekeeper.errors import InputError
from enginekeeper.orchestration.bench import Bench
from enginekeeper.settings import Settings
from registry.signing import ROLES, TRUST_FILE, trusted
from registry.trust import Purpose, Trust
from registry.trust_file import add_trusted_key, read_trust
from registry.types import Engine, Verdict
from tests.factories.benches import Site, environment_of, variants_of

Ek = Callable[..., Any]

READING = (("engine", "list"), ("channel", "list"), ("where",), ("key", "list"))


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("command", READING)
def test_reading_makes_no_keys(ek: Ek, tmp_path: Path, command: tuple[str, ...]) -> None:
    assert ek(*command).code == ExitCode.OK
    assert not (tmp_path / "home" / "keys").exists()


@pytest.mark.parametrize("command", READING)
def test_reading_leaves_a_given_trust_file_as_it_is(
    ek: Ek, site: Site, command: tuple[str, ...]
) -> None:
    keys = site.bench.keys
    add_trusted_key(keys / TRUST_FILE, trusted(CryptoSigner.generate_ed25519(), Purpose.BUILD))
    before = {path: path.read_bytes() for path in keys.iterdir()}
    assert ek(*command).code == ExitCode.OK
    assert {path: path.read_bytes() for path in keys.iterdir()} == before


@pytest.mark.parametrize("role", ROLES)
def test_a_key_is_made_and_trusted_by_name(ek: Ek, site: Site, role: str) -> None:
    made = ek("key", "create", role, "--json")
    assert (made.code, site.bench.trust.keys) == (ExitCode.OK, ())
    assert ek("key", "create", role).code == ExitCode.UNAVAILABLE
    assert ek("key", "trust", role).code == ExitCode.OK
    (entry,) = ek("key", "list", "--json").json
    assert entry["keyid"] == made.json["keyid"]
    assert entry["purposes"] == [str(ROLES[role])]


@pytest.mark.usefixtures("site")
def test_a_key_that_is_not_here_cannot_be_trusted(ek: Ek) -> None:
    assert ek("key", "trust", "builder").code == ExitCode.NOT_FOUND


def test_every_role_can_be_named() -> None:
    @click.command()
    @role_argument
    def command(role: str) -> None:
        """Take a role."""

    (argument,) = command.params
    assert isinstance(argument.type, click.Choice)
    assert tuple(argument.type.choices) == tuple(ROLES)


def test_a_revoked_key_is_noticed_by_a_running_process(ek: Ek, site: Site) -> None:
    ek("key", "create", "builder")
    ek("key", "trust", "builder")
    path = site.bench.keys / TRUST_FILE
    assert len(site.bench.registry.trust.keys) == 1
    path.write_text(json.dumps({"schema": 1, "keys": []}))
    assert site.bench.registry.trust == read_trust(path) == Trust()


def signed_site(site: Site, directory: Path) -> tuple[Engine, Verdict]:
    (variant,) = variants_of(directory)
    engine = site.publish(variant)
    return engine, site.judge(engine, variant)


def key_for(site: Site, purpose: Purpose) -> str:
    return next(one.keyid for one in site.bench.trust.keys if purpose in one.purposes)


def test_what_a_revocation_costs_is_shown_first_and_changes_nothing(
    ek: Ek, site: Site, tmp_path: Path
) -> None:
    engine, _ = signed_site(site, tmp_path)
    before = site.bench.trust
    said = ek("key", "revoke", key_for(site, Purpose.BUILD)[:8], "--reason", "x", "--dry-run",
              "--json")  # fmt: skip
    assert said.code == ExitCode.OK
    assert [(one["kind"], one["name"]) for one in said.json["losses"]] == [
        ("engine", engine.digest.short)
    ]
    assert site.bench.trust == before


def test_a_revoked_key_is_listed_with_the_reason(ek: Ek, site: Site, tmp_path: Path) -> None:
    _, verdict = signed_site(site, tmp_path)
    keyid = key_for(site, Purpose.VERDICT)
    said = ek("key", "revoke", keyid, "--reason", "stolen laptop")
    assert (said.code, verdict.digest.short in said.out) == (ExitCode.OK, True)
    (row,) = (one for one in ek("key", "list", "--json").json if one["keyid"] == keyid)
    assert row["state"] == "revoked: stolen laptop"


def test_a_key_that_was_taken_out_can_still_be_revoked(ek: Ek, site: Site, tmp_path: Path) -> None:
    signed_site(site, tmp_path)
    keyid = key_for(site, Purpose.BUILD)
    site.distrust("build")
    assert ek("key", "revoke", keyid[:12], "--reason", "x").code == ExitCode.NOT_FOUND
    assert ek("key", "revoke", keyid, "--reason", "stolen laptop").code == ExitCode.OK
    assert keyid[:12] in ek("key", "list").out


@pytest.mark.parametrize("since", ["yesterday", "2026-11-26T12:00:00", "5"])
def test_a_time_that_could_mean_something_else_is_refused(
    ek: Ek, site: Site, tmp_path: Path, since: str
) -> None:
    signed_site(site, tmp_path)
    keyid = key_for(site, Purpose.BUILD)
    assert ek("key", "revoke", keyid, "--reason", "x", "--since", since).code == ExitCode.USAGE


def test_an_id_that_is_too_short_revokes_nothing(ek: Ek, site: Site, tmp_path: Path) -> None:
    signed_site(site, tmp_path)
    said = ek("key", "revoke", key_for(site, Purpose.BUILD)[:2], "--reason", "x")
    assert said.code == ExitCode.INVALID_INPUT
    assert site.bench.trust.revocations == ()


def test_rotation_costs_nothing_that_was_signed(ek: Ek, site: Site, tmp_path: Path) -> None:
    engine, _ = signed_site(site, tmp_path)
    old = key_for(site, Purpose.BUILD)
    new = ek("key", "rotate", "builder", "--json").json["keyid"]
    assert new != old
    site.bench.registry.verify_engine(engine)
    states = {one["keyid"]: one["state"] for one in ek("key", "list", "--json").json}
    assert states[old].startswith("not valid after")
    assert states[new] == "valid"


def test_the_expiry_of_a_key_is_shown(ek: Ek, site: Site, tmp_path: Path) -> None:
    signed_site(site, tmp_path)
    ahead = (datetime.now(UTC) + timedelta(days=9, hours=1)).isoformat()
    ek("key", "rotate", "builder", "--until", ahead)
    assert "valid for 9 more days" in ek("key", "list").out


def test_a_public_key_of_a_kms_is_trusted_by_its_file(ek: Ek, site: Site, tmp_path: Path) -> None:
    crypto = CryptoSigner.generate_ecdsa()._private_key.public_key()
    path = tmp_path / "kms.pem"
    path.write_bytes(crypto.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert ek("key", "trust", "validator", "--public", path).code == ExitCode.OK
    (entry,) = site.bench.trust.keys
    assert (entry.keytype, sorted(entry.purposes)) == ("ecdsa", [Purpose.VERDICT])


def test_a_key_is_trusted_for_a_time(ek: Ek, site: Site) -> None:
    ek("key", "create", "approver")
    said = ek("key", "trust", "approver", "--not-after", "2026-01-01", "--json")
    assert said.json["not_after"] == "2026-01-01T00:00:00+00:00"
    assert "not valid after 2026-01-01" in ek("key", "list").out
    ek("key", "trust", "approver", "--not-before", "2025-01-01", "--not-after", "2126-01-01")
    (entry,) = site.bench.trust.keys
    assert (entry.not_before, entry.not_after) == (
        datetime(2025, 1, 1, tzinfo=UTC), datetime(2126, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def test_an_identity_is_trusted_without_a_key(ek: Ek, site: Site, tmp_path: Path) -> None:
    who = ("--identity", "release@example.com", "--issuer", "https://accounts.google.com")
    said = ek("key", "trust", "validator", *who, "--json")
    assert (said.code, said.json["keytype"]) == (ExitCode.OK, "sigstore-oidc")
    (entry,) = site.bench.trust.keys
    assert entry.as_dict()["identity"] == "release@example.com"
    assert said.json["keyid"][:12] in ek("key", "list").out
    (tmp_path / "root.json").write_text("{}")
    refused = ek("key", "trust", "builder", *who, "--trusted-root", tmp_path / "root.json")
    assert (refused.code, "root.json" in refused.err) == (ExitCode.INVALID_INPUT, True)
    for wrong in (who[:2], who[2:], (*who, "--public", tmp_path / "root.json"),
                  ("--trusted-root", tmp_path / "root.json")):  # fmt: skip
        assert ek("key", "trust", "builder", *wrong).code == ExitCode.USAGE
    assert len(site.bench.trust.keys) == 1


def test_a_key_elsewhere_signs_for_its_role_and_a_misspelt_role_is_noticed(
    site: Site, tmp_path: Path
) -> None:
    signed_site(site, tmp_path)
    mine = CryptoSigner.generate_ecdsa()
    path = tmp_path / "mine.pem"
    path.write_bytes(mine.private_bytes)
    path.chmod(0o600)
    entry = trusted(mine, Purpose.BUILD)
    add_trusted_key(site.bench.keys / TRUST_FILE, entry)
    environ = {**environment_of(tmp_path), "ENGINEKEEPER_SIGNER_BUILDER": f"file:{path}"}
    (signer,) = Bench(Settings.from_environment(environ)).signers(Purpose.BUILD)
    assert signer.public_key.keyid == entry.keyid
    environ["ENGINEKEEPER_SIGNER_BILDER"] = "awskms:alias/x"
    with pytest.raises(InputError, match="bilder"):
        Bench(Settings.from_environment(environ)).signers(Purpose.BUILD)
