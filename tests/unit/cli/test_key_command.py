"""`ek key`: reading makes no keys, and a trust file is extended by name only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from securesystemslib.signer import CryptoSigner

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli.key import role_argument
from registry.signing import ROLES, TRUST_FILE, trusted
from registry.trust import Purpose, Trust
from registry.trust_file import add_trusted_key, read_trust
from tests.factories.benches import Site

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
