"""`audit`: who changed what in the registry, and whether that log is whole."""

from __future__ import annotations

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output


@click.group()
def audit() -> None:
    """Show and verify the audit log: a hash chain of every change of the registry."""


@audit.command()
@click.option("--about", metavar="TEXT", help="Only entries that name this: an id, a channel, …")
@click.option("--action", metavar="TEXT", help="Only actions that start so, e.g. `channel`.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N of them.")
@json_option
def log(about: str | None, action: str | None, last: int | None, as_json: bool) -> int:
    """List the entries, oldest first: number, time, who, what, on what.

    Says nothing about whether the log is whole: `audit verify` does.
    """
    from itertools import islice

    from enginekeeper.orchestration.bench import open_bench

    limit = last if about is None and action is None else None
    with open_bench().registry.catalogue.read() as view:
        wanted = (
            one
            for one in view.newest_audit_entries(limit)
            if (about is None or about in one.subject or about in one.details)
            and (action is None or one.action.startswith(action))
        )
        entries = list(islice(wanted, last))[::-1]
    rows = [one.as_dict() for one in entries]
    if not as_json:
        rows = [{**row, "details": entry.details} for row, entry in zip(rows, entries, strict=True)]
    Output(as_json).table(rows, ("number", "at", "actor", "action", "subject", "details"))
    return ExitCode.OK


@audit.command()
@click.option(
    "--known", metavar="DIGEST", help="The digest of an entry that the log must still have."
)
@json_option
def verify(known: str | None, as_json: bool) -> int:
    """Recompute the chain; exit 11 and name the first broken link if it is not whole.

    A log whose end was cut off is a shorter whole log: keep the digest that this prints somewhere
    else, and give it with --known the next time.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.audit import verify_chain
    from registry.digests import Digest

    wanted = None if known is None else Digest.parse(known)
    with open_bench().registry.catalogue.read() as view:
        head = verify_chain(view.audit_entries(), known=wanted)
    count, digest = (0, None) if head is None else (head.number, str(head.digest))
    output = Output(as_json)
    output.document({"entries": count, "head": digest}, digest or "no entries")
    output.note(f"{count} entries, unbroken")
    return ExitCode.OK
