"""`key`: the keys that sign here, and whom this home trusts; what engine keys consist of."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._differences import diff, explain
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import Moment, NamedPath, json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from registry.trust import Trust, TrustedKey

role_argument = click.argument(
    "role",
    type=click.Choice(("builder", "validator", "recorder", "approver", "keeper", "revoker")),
)

simulated_option = click.option(
    "--simulated", is_flag=True,
    help="The key of ROLE for what doubles made: under a trust root of its own.",
)  # fmt: skip


@click.group()
def key() -> None:
    """List, make, trust, rotate and revoke keys that sign; explain and compare keys of engines.

    ROLE is builder, validator, recorder, approver (waivers), keeper (snapshots) or revoker.
    A home without any keys makes those that building needs when it first signs something. Where a
    trust file was given, keys are made and trusted by these commands only.
    """


key.add_command(explain)
key.add_command(diff)


@key.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List the keys this home trusts, for what, and whether they still sign what counts."""
    from enginekeeper.orchestration.bench import open_bench

    trust = open_bench().trust
    rows = [
        {
            "key": one.keyid[:12],
            "purpose": ", ".join(sorted(one.purposes)),
            "state": _state(trust, one),
            **one.as_dict(),
        }
        for one in trust.keys
    ]
    listed = {one.keyid for one in trust.keys}
    rows += [
        {"key": one.keyid[:12], "purpose": "-", "state": f"revoked: {one.reason}", **one.as_dict()}
        for one in trust.revocations
        if one.keyid not in listed
    ]
    columns = ("key", "purpose", "root", "keytype", "not_before", "not_after", "state")
    output = Output(as_json)
    output.table(rows, columns)
    for purpose, many in sorted(trust.thresholds.items()):
        output.note(f"{purpose}: {many} different keys must have signed")
    return ExitCode.OK


@key.command()
@role_argument
@simulated_option
@json_option
def create(role: str, simulated: bool, as_json: bool) -> int:
    """Make the private key of ROLE; nobody trusts it yet. Exits 10 if there is one."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.signing import ROLES, create_key

    made = create_key(open_bench().keys, ROLES[role], simulated=simulated)
    _show(made, f"made the {role}'s key {made.keyid[:12]}; it is not trusted yet", as_json)
    return ExitCode.OK


@key.command()
@role_argument
@click.option(
    "--public", type=NamedPath(), help="Public key of another machine or a KMS (PEM), not our own."
)
@click.option(
    "--identity", help="No key: whom --issuer vouches for (an e-mail address, a workflow's URI)."
)
@click.option("--issuer", help="The OpenID issuer of --identity, e.g. https://accounts.google.com.")
@click.option(
    "--trusted-root", type=NamedPath(), help="trusted_root.json of a private sigstore instance."
)
@click.option("--not-before", type=Moment(), help="What it signs before that does not count.")
@click.option("--not-after", type=Moment(), help="What it signs after that does not count.")
@simulated_option
@json_option
def trust(
    role: str, public: Path | None, identity: str | None, issuer: str | None,
    trusted_root: Path | None, not_before: datetime | None, not_after: datetime | None,
    simulated: bool, as_json: bool,
) -> int:  # fmt: skip
    """Add the public half of ROLE's own key, or another one, to this home's trust file.

    With --identity and --issuer whoever that is may sign without a key (sigstore).
    """
    if (identity is None) is not (issuer is None) or (identity and public):
        raise click.UsageError("give --identity and --issuer, or --public, or none of them")
    if trusted_root is not None and identity is None:
        raise click.UsageError("--trusted-root is for --identity and --issuer")
    from enginekeeper.orchestration.bench import open_bench
    from registry.keyless import verifier_of
    from registry.signers import public_key_in
    from registry.signing import ROLES, TRUST_FILE, key_path, load_signer, trusted
    from registry.trust import TrustedKey, TrustRoot
    from registry.trust_file import add_trusted_key

    keys, purpose = open_bench().keys, ROLES[role]
    if identity is not None and issuer is not None:
        where = None if trusted_root is None else str(trusted_root.absolute())
        verifier_of(where)
        entry = TrustedKey.keyless(
            identity, issuer, frozenset({purpose}), TrustRoot.of(simulated=simulated), where
        )
    elif public is None:
        own = load_signer(key_path(keys, purpose, simulated=simulated))
        entry = trusted(own, purpose, simulated=simulated)
    else:
        entry = public_key_in(public, purpose, simulated=simulated)
    entry = replace(entry, not_before=not_before, not_after=not_after)
    add_trusted_key(keys / TRUST_FILE, entry)
    said = f"the {role}'s key {entry.keyid[:12]} is trusted for {purpose} ({entry.root})"
    _show(entry, said, as_json)
    return ExitCode.OK


@key.command()
@role_argument
@click.option(
    "--until", type=Moment(), help="What the old key signs until then still counts; default: now."
)
@simulated_option
@json_option
def rotate(role: str, until: datetime | None, simulated: bool, as_json: bool) -> int:
    """Give ROLE a new key, trusted here at once; the old one keeps what it signed.

    Other machines need the new public key in their trust files. Run again after an interruption,
    it goes on with the key that was made.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.signing import ROLES, rotate_key
    from registry.trust import utc_now

    keys, ends = open_bench().keys, until or utc_now()
    old, new = rotate_key(keys, ROLES[role], ends, simulated=simulated)
    said = f"the {role} signs with {new.keyid[:12]} from now on; key {old.keyid[:12]} has ended"
    _show(new, said, as_json)
    return ExitCode.OK


@key.command()
@click.argument("keyid", metavar="KEYID")
@click.option("--reason", required=True, help="Why; shown wherever something of it is refused.")
@click.option(
    "--since", type=Moment(), help="What it signed before still counts; default: nothing does."
)
@click.option("--dry-run", is_flag=True, help="Only show what would not count any more.")
@json_option
def revoke(keyid: str, reason: str, since: datetime | None, dry_run: bool, as_json: bool) -> int:
    """Take the trust from a key, and show what does not count any more.

    KEYID is the start of its id; all 64 digits of one that is not in the trust file any more.
    With --since, whoever holds the key can date a statement back: give a time only if you know
    that nobody else had it.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.signing import TRUST_FILE
    from registry.trust import KeyRevocation, utc_now
    from registry.trust_file import change_trust

    bench, output = open_bench(), Output(as_json)
    before = bench.trust
    revocation = KeyRevocation(_found(before, keyid), reason, utc_now(), since)
    lost = [one.as_dict() for one in bench.registry.losses(before.revoking(revocation))]
    document = {**revocation.as_dict(), "dry_run": dry_run, "losses": lost}
    if not dry_run:
        change_trust(bench.keys / TRUST_FILE, lambda now: now.revoking(revocation))
    if as_json:
        output.json(document)
    else:
        output.table(lost, ("kind", "name", "what"))
    done = "would not count any more" if dry_run else "do not count any more"
    output.note(f"key {revocation.keyid[:12]}: {len(lost)} things {done}")
    return ExitCode.OK


def _found(trust: Trust, start: str) -> str:
    """Returns the one key id that starts so; raises for none and for several."""
    from registry.errors import AmbiguousIdError, RecordNotFoundError

    found = sorted({one.keyid for one in trust.keys if one.keyid.startswith(start)})
    if len(found) == 1 and len(start) >= _SHORTEST:
        return found[0]
    if len(found) > 1 or found:
        raise AmbiguousIdError(
            "the id fits several keys, or is too short to be sure", actual=start,
            expected=f"at least {_SHORTEST} digits that fit one key",
            remedy="enginekeeper key list",
        )  # fmt: skip
    if len(start) == _DIGITS and not set(start) - set("0123456789abcdef"):
        return start
    raise RecordNotFoundError(
        "no such key in the trust file", actual=start, remedy="enginekeeper key list"
    )


_SHORTEST, _DIGITS = 4, 64


def _state(trust: Trust, one: TrustedKey) -> str:
    """Says in words whether what a key signs now counts."""
    now = trust.clock()
    doubt = trust.doubt(one.keyid, one.root, now)
    if doubt is not None:
        return doubt
    if one.not_after is None:
        return "valid"
    return f"valid for {(one.not_after - now).days} more days"


def _show(entry: TrustedKey, said: str, as_json: bool) -> None:
    output = Output(as_json)
    output.document(entry.as_dict(), f"{entry.keyid}  {', '.join(sorted(entry.purposes))}")
    output.note(said)
