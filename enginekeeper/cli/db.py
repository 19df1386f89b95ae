"""`db`: the catalogue's schema, and copies of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._confirm import destroys, require_yes
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.backups.record import BackupRecord

_file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def db() -> None:
    """Migrate, check, back up and restore the catalogue (ENGINEKEEPER_CATALOGUE)."""


@db.command()
@json_option
def upgrade(as_json: bool) -> int:
    """Bring the catalogue to this version; does nothing if it is there."""
    from enginekeeper.settings import Settings
    from registry.migrate import upgrade as migrate

    revision = migrate(Settings.from_environment().catalogue_url)
    said = f"the catalogue is at revision {revision}"
    Output(as_json).outcome({"revision": revision}, said)
    return ExitCode.OK


@db.command()
@json_option
def check(as_json: bool) -> int:
    """Exit 10 unless the catalogue is at this version and its schema is what the code expects."""
    from enginekeeper.settings import Settings
    from registry.migrate import check as verify
    from registry.migrate import head

    verify(Settings.from_environment().catalogue_url)
    Output(as_json).outcome({"revision": head()}, "the catalogue is up to date")
    return ExitCode.OK


@db.command()
@_file_argument
@json_option
def backup(file: Path, as_json: bool) -> int:
    """Write a backup of the catalogue to FILE, and to FILE.json what is in it.

    The catalogue may be used meanwhile. Never overwrites a file. PostgreSQL is backed up by
    `pg_dump`, and without it this exits 10. Artifacts and signed documents are the store's.
    """
    from enginekeeper.settings import Settings
    from registry.backups.backup import backup as back_up

    record = back_up(Settings.from_environment().catalogue_url, file)
    Output(as_json).outcome(_described(file, record), f"{file}: {_said(record)}")
    return ExitCode.OK


@db.command()
@_file_argument
@click.option("--yes", is_flag=True, help="Replace the catalogue that is there.")
@click.option("--dry-run", is_flag=True, help="Only verify the backup and say what is in it.")
@json_option
def restore(file: Path, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Put the backup FILE back as the catalogue, whole or not at all, and verify it.

    Exits 10 if there is a catalogue already and --yes was not given, 11 if FILE is not the
    backup that was made. Verdicts, revocations, quarantines and ends of waivers from after the
    backup are taken in from the store, and releases that a revoker signed.
    """
    from enginekeeper.settings import Settings
    from registry.backups.backup import restore as put_back

    url = Settings.from_environment().catalogue_url
    record = put_back(file, url, overwrite=yes, dry_run=dry_run)
    done = "whole; nothing was changed" if dry_run else "restored and verified"
    output = Output(as_json)
    output.outcome(_described(file, record), f"{done}: {_said(record)}")
    output.note(
        f"what was judged, held and revoked since {record.made_at} is taken in by: enginekeeper "
        "store scrub; a release without a key since then does not count: release once more"
    )
    return ExitCode.OK


@db.command()
@click.option(
    "--older-than", "days", type=click.IntRange(1, 36500), required=True, metavar="DAYS",
    help="Forget what ended longer ago than that.",
)  # fmt: skip
@destroys
@json_option
def prune(days: int, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Forget which engines and drivers nodes had long ago; never what they have now.

    Goes in batches, beside a service that takes reports; interrupted, run it again. Afterwards
    `where --at` a time before it exits 4 and names the time from which on all is known. Engines,
    verdicts and the audit log are not touched, and neither is what `gc` keeps: it goes by what is
    on nodes now.
    """
    from datetime import UTC, datetime, timedelta

    from enginekeeper.orchestration.bench import open_bench
    from registry.fleet.pruning import prune as forget

    registry, output = open_bench().registry, Output(as_json)
    before = datetime.now(UTC) - timedelta(days=days)
    with registry.catalogue.read() as view:
        found = view.fleet.past(before)
    document = {"before": before.isoformat(), **vars(found), "changed": False}
    said = f"{found.placements} placements, {found.profiles} profiles that ended before {before:%F}"
    if dry_run:
        output.outcome(document, f"{said}; nothing was changed")
        return ExitCode.OK
    if found.rows:
        require_yes(f"Forget {said}?", yes=yes)
        gone = forget(registry.catalogue, before, actor=registry.actor)
        document |= {**vars(gone), "changed": True}
        said = f"{gone.placements} placements, {gone.profiles} profiles"
    output.outcome(document, f"forgotten: {said}" if found.rows else "nothing is that old")
    return ExitCode.OK


def _described(file: Path, record: BackupRecord) -> dict[str, object]:
    return {"file": str(file.absolute()), **record.as_dict()}


def _said(record: BackupRecord) -> str:
    rows = record.content.rows
    counted = ", ".join(
        f"{rows.get(name, 0)} {name}" for name in ("engines", "verdicts", "channels")
    )
    return f"revision {record.content.revision}, {counted}, made {record.made_at}"
