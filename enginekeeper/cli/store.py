"""`store`: where the artifacts' bytes lie, and what that place can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Hours, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.blobs.interface import BlobStore
    from registry.copies import Copy

_url_option = click.option(
    "--url", metavar="URL", help="Another store than ENGINEKEEPER_STORE: file:///… or s3://…"
)


@click.group()
def store() -> None:
    """Look after the artifact store (ENGINEKEEPER_STORE)."""


@store.command()
@_url_option
@json_option
def probe(url: str | None, as_json: bool) -> int:
    """Try what the store's server or file system supports; exit 10 if it is too little.

    Writes two small objects below probe/ and leaves them there.
    """
    found = _open(url)
    features = found.probe()
    rows = [one.as_dict() for one in features]
    output = Output(as_json)
    output.table(rows, ("feature", "supported", "required", "otherwise"))
    missing = [one.name for one in features if one.required and not one.supported]
    verdict = f"nothing is published here: no {', no '.join(missing)}" if missing else "it will do"
    output.note(f"{found.url}: {verdict}")
    return ExitCode.UNAVAILABLE if missing else ExitCode.OK


@store.command()
@_url_option
@click.option(
    "--older-than", "hours", type=Hours(1), default=168.0, show_default=True,
    metavar="HOURS", help="Only what nobody touched for that long.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def sweep(url: str | None, hours: float, dry_run: bool, as_json: bool) -> int:
    """Remove uploads and drafts that were interrupted and not gone on with; only our own."""
    from datetime import timedelta

    swept = _open(url).sweep(timedelta(hours=hours), dry_run=dry_run)
    output = Output(as_json)
    output.table([{"name": name} for name in swept], ("name",))
    output.note(f"{len(swept)} {'would be removed' if dry_run else 'removed'}")
    return ExitCode.OK


@store.command()
@click.option(
    "--repair-from", metavar="URL|DIR",
    help="Put back what is lost or damaged from another store (s3://…, file:///…), or from a "
    "directory that holds good copies of it.",
)  # fmt: skip
@json_option
def scrub(repair_from: str | None, as_json: bool) -> int:
    """Read every byte that the catalogue names; exit 11 if anything stays lost or damaged.

    Nothing is put back whose digest is not the one that was recorded.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.transfers import TransferLog
    from registry.scrubbing import Fault
    from registry.scrubbing import scrub as read_all

    show_progress()
    copy = None if repair_from is None else _copy(repair_from)
    report = read_all(open_bench().registry, copy=copy, progress=TransferLog())
    rows = [
        {**one.as_dict(), "state": "mended" if one.mended else str(one.fault), "used by": user}
        for one in report.findings
        for user in one.users
    ]
    output = Output(as_json)
    if as_json:
        output.json(report.as_dict())
    elif rows:
        output.table(rows, ("state", "name", "used by"))
    output.note(
        f"read {report.manifests} manifests, {report.documents} verdict documents, "
        f"{report.blobs} blobs ({report.size} bytes): {len(report.findings)} were lost, damaged "
        f"or refused, {len(report.wrong)} still are"
    )
    if report.revocations:
        output.note(f"{report.revocations} revocations that the catalogue had lost were recorded")
    if any(one.fault is not Fault.REFUSED for one in report.wrong):
        output.note("next: enginekeeper store scrub --repair-from URL|DIR, or publish again")
    if any(one.fault is Fault.REFUSED for one in report.wrong):
        output.note("what was refused was not taken in: mend what it says, and scrub again")
    return ExitCode.INTEGRITY if report.wrong else ExitCode.OK


def _copy(place: str) -> Copy:
    from pathlib import Path

    from enginekeeper.errors import MissingError
    from registry.blobs.select import open_store
    from registry.copies import DirectoryCopy, StoreCopy

    if "://" in place:
        return StoreCopy(open_store(place))
    if not Path(place).is_dir():
        raise MissingError("no such directory", where=place)
    return DirectoryCopy(Path(place))


def _open(url: str | None) -> BlobStore:
    from enginekeeper.settings import Settings
    from registry.blobs.select import open_store

    return open_store(url or Settings.from_environment().store_url)
