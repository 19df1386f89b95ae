"""Carries an acceptance out: builds, judges, and signs what came of it.

The report is a document and the validator's signed statement about it. It says what was looked at,
what became of every recipe, and the row for the table of what has been run where. What doubles made
is signed under the simulated root and says so in every place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from enginekeeper import __version__
from enginekeeper.documents import parse_json, read_whole
from enginekeeper.errors import MissingError
from enginekeeper.orchestration.accepting import HostAcceptance
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Ending, Outcome
from registry.attestations import Statement, sign, verify
from registry.digests import canonical_json, digest_bytes
from registry.errors import IntegrityError
from registry.files import write_whole
from registry.trust import Purpose, Trust

REPORT, SIGNED, SPEC, ROW = "acceptance.json", "acceptance.dsse", "acceptance.yaml", "row.md"
PREDICATE = "urn:enginekeeper:acceptance:v1"

Build = Callable[[BuildOrder], list[Outcome]]


@dataclass(frozen=True)
class Accepted:
    """What came of an acceptance, and where it is written."""

    folder: Path
    document: dict[str, Any]
    outcomes: tuple[Outcome, ...]

    @property
    def row(self) -> str:
        """The line for the table of what has been run where."""
        row: str = self.document["row"]
        return row


def run_acceptance(
    bench: Bench,
    found: HostAcceptance,
    folder: Path,
    *,
    build: Build,
    clock: Callable[[], datetime],
    only: Sequence[str] = (),
) -> Accepted:
    """Builds and judges what the acceptance names, and writes the signed report to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / SPEC, found.spec.encode())
    started = clock()
    outcomes = tuple(build(BuildOrder(str(folder / SPEC), only=tuple(only))))
    finished = clock()
    document = {
        "schema": 1,
        "enginekeeper": __version__,
        "toolchain": found.release,
        "simulated": found.simulated,
        "started": started.isoformat(),
        "finished": finished.isoformat(),
        "host": {"system": bench.host.system, "architecture": bench.host.architecture},
        "looked": [{"subject": one.subject, "found": one.found} for one in found.looked],
        "outcomes": [one.as_dict() for one in outcomes],
        "row": _row(found, outcomes, finished),
    }
    payload = canonical_json(document)
    statement = Statement(
        digest_bytes(payload),
        Purpose.VERDICT,
        {"simulated": found.simulated, "issuedAt": finished.isoformat()},
        name=REPORT,
        predicate_type=PREDICATE,
    )
    signers = bench.signers(Purpose.VERDICT, simulated=found.simulated)
    write_whole(folder / SIGNED, sign(statement, *signers))
    write_whole(folder / REPORT, payload)
    write_whole(folder / ROW, f"{document['row']}\n".encode())
    return Accepted(folder, document, outcomes)


def read_report(folder: Path, trust: Trust, *, simulated: bool) -> dict[str, Any]:
    """Returns a report whose signature counts; raises IntegrityError otherwise.

    Raises MissingError for a folder without a report.
    """
    payload, signed = _bytes_of(folder / REPORT), _bytes_of(folder / SIGNED)
    verify(
        signed,
        trust,
        Purpose.VERDICT,
        subject=digest_bytes(payload),
        simulated=simulated,
        predicate_type=PREDICATE,
    )
    document: dict[str, Any] = parse_json(payload, str(folder / REPORT))
    return document


def verified_report(folder: Path, trust: Trust) -> dict[str, Any]:
    """Returns a report that counts as real, or as simulated; raises IntegrityError otherwise.

    What it says of itself decides nothing: the trust root does under which its signature counts.
    """
    try:
        return read_report(folder, trust, simulated=False)
    except IntegrityError as error:
        with suppress(IntegrityError):
            return read_report(folder, trust, simulated=True)
        raise error from None


def _bytes_of(path: Path) -> bytes:
    with suppress(OSError):  # what may not be looked at is told by who reads it
        if not path.is_file():
            raise MissingError(
                "there is no report of an acceptance",
                where=str(path),
                expected=f"a folder with {REPORT} and {SIGNED}",
            )
    return read_whole(path)


def _row(found: HostAcceptance, outcomes: Sequence[Outcome], at: datetime) -> str:
    counted = Counter(
        str(one.result) if one.ending is Ending.JUDGED else str(one.ending) for one in outcomes
    )
    became = ", ".join(f"{number} {name}" for name, number in sorted(counted.items()))
    places = ", ".join(f"{one.subject} {one.found}" for one in found.looked[:2])
    where = "**simulated**: doubles, no GPU" if found.simulated else places
    return f"| SmolLM2-135M by {found.release} | {where} | {at:%Y-%m-%d}: {became} |"
