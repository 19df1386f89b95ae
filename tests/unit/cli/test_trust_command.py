"""`ek trust`: thresholds and snapshot policy, with what stops counting shown first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli.trust import _PURPOSES
from registry.signing import TRUST_FILE, create_key
from registry.trust import Purpose, Trust
from registry.trust_file import add_trusted_key, read_trust
from registry.types import Engine
from tests.factories.benches import Site, variants_of

Ek = Callable[..., Any]


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    (variant,) = variants_of(tmp_path)
    found = site.publish(variant)
    site.judge(found, variant)
    return found


def policy(site: Site) -> Trust:
    return read_trust(site.bench.keys / TRUST_FILE)


def test_the_purposes_are_those_of_the_registry() -> None:
    assert set(_PURPOSES) == set(Purpose)


def test_a_threshold_shows_what_it_costs_before_it_is_set(
    ek: Ek, site: Site, engine: Engine
) -> None:
    before = policy(site)
    dry = ek("trust", "threshold", "verdict", 2, "--dry-run", "--json")
    assert [(one["kind"], policy(site)) for one in dry.json["losses"]] == [("verdict", before)]
    assert "2 must sign, and 1 keys may" in dry.err
    said = ek("trust", "threshold", "verdict", 2)
    assert (said.code, policy(site).thresholds) == (ExitCode.OK, {Purpose.VERDICT: 2})
    assert ek("gate", engine.digest.short, "--json").json["rule"] == "verdict-not-attested"
    assert ek("trust", "threshold", "verdict", 1).code == ExitCode.OK
    assert policy(site) == before
    assert ek("gate", engine.digest.short).code == ExitCode.OK


@pytest.mark.usefixtures("engine")
def test_the_policy_is_shown_with_the_keys_that_count_now(ek: Ek, site: Site) -> None:
    path, purpose = site.bench.keys / TRUST_FILE, Purpose.BUILD
    other = create_key(site.directory / "other", purpose)
    add_trusted_key(path, other)
    ended = create_key(site.directory / "ended", purpose)
    add_trusted_key(path, replace(ended, not_after=datetime.now(UTC) - timedelta(days=1)))
    ek("trust", "threshold", "build", 2)
    shown = ek("trust", "show", "--json").json
    row = {"purpose": "build", "root": "production", "threshold": 2, "keys": 2}
    assert (shown["snapshot"], row in shown["purposes"]) == ("off", True)
    assert "snapshots: off" in ek("trust", "show").err


def test_snapshots_are_asked_for_and_not_any_more(ek: Ek, site: Site, engine: Engine) -> None:
    dry = ek("trust", "snapshots", "required", "--dry-run")
    assert (dry.code, policy(site).snapshot_required) == (ExitCode.OK, False)
    assert "snapshot publish" in dry.err
    assert ek("trust", "snapshots", "required").code == ExitCode.OK
    assert ek("gate", engine.digest.short, "--json").json["rule"] == "stale-snapshot"
    assert ek("trust", "snapshots", "off", "--json").json["snapshot"] == "off"
    assert ek("gate", engine.digest.short).code == ExitCode.OK


def test_waivers_are_as_long_as_the_policy_says(ek: Ek, site: Site, engine: Engine) -> None:
    ek("key", "create", "approver")
    ek("key", "trust", "approver")
    until = (datetime.now(UTC) + timedelta(days=20)).isoformat()
    asked = ("waiver", "grant", engine.digest.short, "--rule", "never-judged", "--reason", "demo")
    assert ek(*asked, "--until", until).code == ExitCode.OK
    dry = ek("trust", "waivers", 7, "--dry-run", "--json")
    assert (dry.json["losses"], policy(site).max_waiver_days) == ([], 90)
    assert ek("trust", "waivers", 7).code == ExitCode.OK
    assert ek("trust", "show", "--json").json["max_waiver_days"] == 7
    refused = ek(*asked, "--until", until)
    assert (refused.code, "7 days at most" in refused.err) == (ExitCode.INVALID_INPUT, True)
    assert len(ek("waiver", "list", "--json").json) == 1
    assert ek("trust", "waivers", 0).code == ExitCode.USAGE


@pytest.mark.usefixtures("site")
def test_without_a_trust_file_there_is_nothing_to_change(ek: Ek, site: Site) -> None:
    for command in (("show",), ("threshold", "waiver", 2), ("snapshots", "required")):
        assert ek("trust", *command).code == ExitCode.NOT_FOUND
    assert not (site.bench.keys / TRUST_FILE).exists()


@pytest.mark.parametrize("wrong", [("waiver", 0), ("waiver", "two"), ("coffee", 1)])
def test_what_is_no_threshold_is_a_usage_error(ek: Ek, wrong: tuple[str, object]) -> None:
    assert ek("trust", "threshold", *wrong).code == ExitCode.USAGE
