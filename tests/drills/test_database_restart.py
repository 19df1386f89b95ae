"""PostgreSQL ends at once in the middle of a transaction, at every statement in turn."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from registry.errors import DiagnosedError, StoreUnavailableError
from registry.publishing import EnginePublication
from registry.service import Registry
from tests.drills.ground import Ground, make_ground
from tests.drills.ledger import Ledger
from tests.fakes import servers
from tests.fakes.servers import PostgreSQL

_MOST = 100


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with servers.postgresql_server() as running:
        yield running


@pytest.fixture
def restarted(server: PostgreSQL, tmp_path: Path) -> Iterator[Ground]:
    store = (tmp_path / "store").as_uri()
    with (
        servers.database(server.url, f"drill_{uuid.uuid4().hex}") as url,
        make_ground(tmp_path / "bench", url, store) as ground,
    ):
        yield ground


def strike(registry: Registry, server: PostgreSQL, at: int) -> list[str]:
    """Restarts the server before the n-th statement or commit from now on, once."""
    seen: list[str] = []

    def reach(name: str) -> None:
        seen.append(name)
        if len(seen) == at:
            server.restart()

    engine = registry.catalogue._engine
    event.listen(
        engine, "before_cursor_execute",
        lambda _c, _k, statement, *_: reach(" ".join(statement.split()[:3])),
    )  # fmt: skip
    event.listen(engine, "commit", lambda _: reach("COMMIT"))
    return seen


def test_a_database_that_ends_in_mid_transaction_loses_nothing(
    restarted: Ground, server: PostgreSQL, ledger: Ledger
) -> None:
    drill = ledger.drill(
        "database restarted in mid-transaction",
        "PostgreSQL stopped by SIGQUIT (no clean shutdown) and started again before every "
        "statement and every commit of publish, verdict and channel move",
    )
    restarted.live(restarted.publication())
    for at in range(1, _MOST):
        registry = restarted.opened()
        seen = strike(registry, server, at)
        publication = restarted.publication()
        error = lived(restarted, publication, registry)
        registry.catalogue.close()
        check_said(error)
        drill.ran(restarted.look(), f"before {seen[-1]}, {at}")
        restarted.live(publication)
        drill.ran(restarted.look(publication.manifest.digest), f"again after {at}")
        if len(seen) < at:
            break
    else:
        pytest.fail(f"a round of {_MOST - 1} was struck as well: raise _MOST")
    assert at > 10


def lived(
    ground: Ground, publication: EnginePublication, registry: Registry
) -> DiagnosedError | None:
    ground.passed.add(publication.manifest.digest)
    try:
        ground.live(publication, registry)
    except DiagnosedError as error:
        return error
    return None


def check_said(error: DiagnosedError | None) -> None:
    """An error says where, what to do next, and that it may pass; none is better still."""
    if error is not None:
        assert isinstance(error, StoreUnavailableError), error
        assert error.transient, error
        assert error.where, error
        assert error.remedy, error
