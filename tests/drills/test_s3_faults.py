"""An S3 server that fails, once for every request or for good, while engines live their lives."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator

import pytest

from registry.blobs import s3_client, s3_download
from registry.errors import DiagnosedError
from registry.publishing import EnginePublication
from tests.drills.ground import Ground, make_ground
from tests.drills.ledger import Ledger
from tests.fakes.faulty import KINDS, Fault, FaultyServer, faulty
from tests.fakes.servers import ACCESS_KEY, SECRET_KEY, S3Server

pytestmark = pytest.mark.usefixtures("s3_credentials")
HIDDEN = ("500", "503", "409", "silent", "hung up", "answer lost", "cut short")
"""Faults that are nobody's business if they pass by themselves."""
LARGE = 17 * 1024 * 1024
"""Bytes: two parts of an upload."""
CONDITIONS = ("409", "412")
NAMES = {"500": "500 InternalError", "503": "503 SlowDown"}


def writes(method: str, _path: str) -> bool:
    return method in ("PUT", "POST")


def every(_method: str, _path: str) -> bool:
    return True


STAGES: dict[str, Callable[[str, str], bool]] = {
    "blob": lambda method, path: method == "PUT" and "/blobs/" in path,
    "large blob": lambda method, path: method in ("POST", "PUT") and "upload" in path.lower(),
    "manifest": lambda method, path: method == "PUT" and path.endswith("/manifest.json"),
    "signature": lambda method, path: method == "PUT" and "/attestations/" in path,
    "verdict": lambda method, path: method == "PUT" and "/statements/" in path,
    "reading": lambda method, _path: method == "GET",
    "looking": lambda method, _path: method == "HEAD",
}

_ANY = ("500", "503", "hung up", "answer lost")
LASTING = (
    *((kind, stage) for kind in _ANY for stage in STAGES),
    *((kind, stage) for kind in CONDITIONS for stage in ("blob", "large blob", "manifest")),
    *(("bit flipped in the request", stage) for stage in ("blob", "large blob", "manifest")),
    *((kind, "reading") for kind in ("cut short", "bit flipped in the answer", "silent")),
    ("silent", "blob"),
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that wait a second for an answer and try three times: minutes are not needed here."""
    monkeypatch.setattr(s3_client, "_SILENT", 1)
    monkeypatch.setattr(s3_client, "_ATTEMPTS", 3)
    monkeypatch.setattr(s3_download, "_PAUSE", 0.1)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def wire(seaweedfs_server: S3Server) -> Iterator[FaultyServer]:
    with faulty(seaweedfs_server.endpoint) as server:
        yield server


@pytest.fixture(scope="module")
def ground(
    wire: FaultyServer, seaweedfs_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """One registry for all faults: the last drill looks at everything that the others left."""
    place = tmp_path_factory.mktemp("faults")
    url = S3Server(wire.endpoint, seaweedfs_server.bucket).url(f"drills/{uuid.uuid4().hex}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        with make_ground(place / "bench", f"sqlite:///{place}/catalogue.db", url) as made:
            made.live(made.publication())  # the probe is over, and there is something to lose
            yield made


@pytest.mark.parametrize("size", [64, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_of_every_request_that_passes_by_itself(
    ground: Ground, wire: FaultyServer, ledger: Ledger, kind: str, size: int
) -> None:
    drill = ledger.drill(
        f"S3: {NAMES.get(kind, kind)}, passing",
        "HTTP server before SeaweedFS; every request (409 and 412: every write) struck once, of "
        "an engine of one part and of two",
    )
    publication = ground.publication(uuid.uuid4().bytes * (size // 16))
    digest = publication.manifest.digest
    wire.fault = fault = Fault(kind, writes if kind in CONDITIONS else every)
    error = lived(ground, publication)
    wire.fault = None
    assert fault.struck
    drill.ran(ground.look(digest), f"{kind}, {size} bytes")
    if kind in HIDDEN:
        assert error is None, f"{kind}: {error}"
    else:
        check_said(error)
    ground.live(publication)
    drill.ran(ground.look(digest), f"{kind}, {size} bytes, again")


@pytest.mark.parametrize(("kind", "stage"), LASTING)
def test_a_fault_that_lasts_is_said_and_costs_nothing_but_time(
    ground: Ground, wire: FaultyServer, ledger: Ledger, kind: str, stage: str
) -> None:
    drill = ledger.drill(
        f"S3: {NAMES.get(kind, kind)}, lasting",
        "as above; every request of one stage: blob, parts, manifest, signature, verdict, "
        "GET, HEAD",
    )
    size = LARGE if stage == "large blob" else 64
    publication = ground.publication(uuid.uuid4().bytes * (size // 16))
    digest = publication.manifest.digest
    wire.fault = fault = Fault(kind, STAGES[stage], lasting=True)
    error = lived(ground, publication)
    wire.fault = None
    assert fault.struck
    drill.ran(ground.look(digest), f"{kind} at {stage}")
    check_said(error)
    ground.live(publication)
    drill.ran(ground.look(digest), f"{kind} at {stage}, again")


def test_after_all_of_these_everything_is_there(ground: Ground, ledger: Ledger) -> None:
    drill = ledger.drill("S3: after all of the above", "everything that was acknowledged, fetched")
    drill.ran(ground.look())


def check_said(error: DiagnosedError | None) -> None:
    """An error says where, and what to do next; none is better still."""
    if error is not None:
        assert error.where, str(error)
        assert error.remedy, str(error)


def lived(ground: Ground, publication: EnginePublication) -> DiagnosedError | None:
    """Lets an engine live; returns the error that was said, if one was; anything else is raised."""
    registry = ground.opened()
    try:
        ground.live(publication, registry)
    except DiagnosedError as error:
        return error
    finally:
        registry.catalogue.close()
    return None
