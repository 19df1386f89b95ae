"""`store`: where the artifacts' bytes lie, and what that place can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.blobs.interface import BlobStore

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
    "--older-than", "hours", type=click.FloatRange(min=1), default=168.0, show_default=True,
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


def _open(url: str | None) -> BlobStore:
    from enginekeeper.settings import Settings
    from registry.blobs.select import open_store

    return open_store(url or Settings.from_environment().store_url)
