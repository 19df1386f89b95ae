"""`db`: the catalogue's schema."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.group()
def db() -> None:
    """Migrate and check the catalogue (ENGINEKEEPER_CATALOGUE)."""


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
