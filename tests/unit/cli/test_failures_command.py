"""`ek failures`: what is not tried again yet, and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from enginekeeper.cli._errors import ExitCode
from registry.digests import digest_bytes
from tests.factories.benches import Site
from tests.factories.failures import failure

Ek = Callable[..., Any]


def _remember(site: Site, **changes: Any) -> None:  # noqa: ANN401 - fields
    now = datetime.now(UTC)
    times = {"failed_at": now, "expires_at": now + timedelta(days=14)}
    with site.bench.registry.catalogue.edit(actor="anna") as draft:
        draft.failures.remember(failure(digest_bytes(b"key"), **{**times, **changes}))


def test_a_failure_is_listed_with_cause_end_and_who_said_so(ek: Ek, site: Site) -> None:
    _remember(site)

    said = ek("failures")

    assert said.code == ExitCode.OK
    for word in ("m.fp8.tp1.l4", "no_kernel", "no kernel fits", "anna"):
        assert word in said.out
    assert "SIMULATED" not in said.out


def test_one_of_a_double_is_marked(ek: Ek, site: Site) -> None:
    _remember(site, simulated=True)

    assert "SIMULATED" in ek("failures").out
    (row,) = ek("failures", "--json").json
    assert (row["simulated"], row["log"]) == (True, ["[E] Could not find any implementation"])


def test_one_that_has_expired_is_not_listed(ek: Ek, site: Site) -> None:
    _remember(site, expires_at=datetime.now(UTC))

    assert ek("failures", "--json").json == []
