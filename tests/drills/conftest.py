"""Drills: real servers, real processes, and a ledger of what came of every disturbance.

`make drills` runs them all and writes the table of docs/reliability.md; a part of them, with
`--drill-table`, replaces its own rows there. A drill is a test that has
a record (`ledger.drill`), disturbs a `ground`, and counts each run: `drill.ran(ground.look())`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.ground import Ground, make_ground
from tests.drills.ledger import Ledger, table_of, write_table
from tests.integration.conftest import (  # noqa: F401 - fixtures
    postgresql_server,
    postgresql_url,
    s3_credentials,
    seaweedfs_server,
)

_LEDGER = Ledger()
GROUNDS = ("sqlite and a directory", "postgresql and s3")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--drill-table", help="document whose table gets the rows of the drills that run"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.drill)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    document = session.config.getoption("--drill-table")
    if document and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        write_table(Path(document), _LEDGER.rows())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(table_of(_LEDGER.rows()))


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    return _LEDGER


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "postgresql and s3":
        request.getfixturevalue("s3_credentials")
        catalogue = request.getfixturevalue("postgresql_url")
        store = request.getfixturevalue("seaweedfs_server").url(f"drills/{uuid.uuid4().hex}")
    else:
        catalogue = f"sqlite:///{tmp_path}/catalogue.db"
        store = (tmp_path / "store").as_uri()
    with make_ground(tmp_path / "bench", catalogue, store) as made:
        yield made


@pytest.fixture
def local_ground(tmp_path: Path) -> Iterator[Ground]:
    url, store = f"sqlite:///{tmp_path}/catalogue.db", (tmp_path / "store").as_uri()
    with make_ground(tmp_path / "bench", url, store) as made:
        yield made
