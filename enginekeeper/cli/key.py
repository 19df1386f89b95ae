"""`key`: the keys that sign here and whom this home trusts; what engine keys consist of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from enginekeeper.cli._differences import diff, explain
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.trust import TrustedKey

role_argument = click.argument(
    "role", type=click.Choice(("builder", "validator", "recorder", "revoker"))
)


@click.group()
def key() -> None:
    """List, make and trust keys that sign; explain and compare the keys of engines.

    ROLE is builder, validator, recorder or revoker. A home without any keys makes all when it
    first signs something. Where a trust file was given, keys are made and trusted by these
    commands only.
    """


key.add_command(explain)
key.add_command(diff)


@key.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List the keys this home trusts, and for what."""
    from enginekeeper.orchestration.bench import open_bench

    bench = open_bench()
    rows = [
        {
            "key": one.keyid[:12],
            "purpose": ", ".join(sorted(one.purposes)),
            **one.as_dict(),
        }
        for one in bench.trust.keys
    ]
    Output(as_json).table(rows, ("key", "purpose", "root", "keytype"))
    return ExitCode.OK


@key.command()
@role_argument
@json_option
def create(role: str, as_json: bool) -> int:
    """Make the private key of ROLE; nobody trusts it yet. Exits 10 if there is one."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.signing import ROLES, create_key

    made = create_key(open_bench().keys, ROLES[role])
    _show(made, f"made the {role}'s key {made.keyid[:12]}; it is not trusted yet", as_json)
    return ExitCode.OK


@key.command()
@role_argument
@json_option
def trust(role: str, as_json: bool) -> int:
    """Add the public half of ROLE's own key to this home's trust file."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.signing import ROLES, TRUST_FILE, key_path, load_signer, trusted
    from registry.trust_file import add_trusted_key

    keys, purpose = open_bench().keys, ROLES[role]
    entry = trusted(load_signer(key_path(keys, purpose)), purpose)
    add_trusted_key(keys / TRUST_FILE, entry)
    _show(entry, f"the {role}'s key {entry.keyid[:12]} is trusted for {purpose}", as_json)
    return ExitCode.OK


def _show(entry: TrustedKey, said: str, as_json: bool) -> None:
    output = Output(as_json)
    output.document(entry.as_dict(), f"{entry.keyid}  {', '.join(sorted(entry.purposes))}")
    output.note(said)
