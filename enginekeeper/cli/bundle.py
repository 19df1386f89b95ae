"""`bundle`: engines with their evidence as one file, for where there is no network."""

from __future__ import annotations

from pathlib import Path

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output

_file = click.argument("file", type=NamedPath())
_digest = click.option(
    "--sha256", metavar="DIGEST",
    help="What `bundle export` printed, told by another way: notices evidence that was left out.",
)  # fmt: skip


@click.group()
def bundle() -> None:
    """Write an engine and all that is signed about it into one file, and take it in elsewhere."""


@bundle.command()
@click.argument("engine_id", metavar="ENGINE")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def export(engine_id: str, file: Path, as_json: bool) -> int:
    """Write ENGINE with its evidence into FILE (tar, not compressed); prints its SHA-256.

    Exits 5 for an engine that is quarantined: nobody else would know of it. A revoked one is
    written with its revocation, which is how others hear of it.
    """
    from enginekeeper.cli._progress import show_progress
    from enginekeeper.orchestration.bench import open_bench
    from registry.bundles import write_bundle
    from registry.exchange import evidence_of

    show_progress()
    registry = open_bench().registry
    found = registry.engine(engine_id)
    registry.verify_engine(found)
    registry.require_unheld(found, unless_revoked=True)
    digest = write_bundle(registry.store, evidence_of(registry, found), file)
    document = {"engine": str(found.digest), "path": str(file.resolve()), "sha256": digest.value}
    Output(as_json).document(document, f"{digest.value}  {file}")
    return ExitCode.OK


@bundle.command("import")
@_file
@_digest
@json_option
def import_command(file: Path, sha256: str | None, as_json: bool) -> int:
    """Publish the engine in FILE here; the same file again changes nothing.

    Every signature, member and byte is verified, by this home's trust file, before anything of it
    can be seen.
    """
    from enginekeeper.orchestration.bench import open_bench
    from registry.bundles import check_digest
    from registry.exchange import import_bundle

    bench = open_bench()
    if sha256 is not None:
        check_digest(file, sha256)
    done = import_bundle(bench.registry, file, bench.settings.cache / "imports")
    output = Output(as_json)
    output.outcome(
        {"engine": str(done.engine.digest), "verdicts": done.verdicts,
         "superseded": done.superseded},
        f"engine {done.engine.digest.short} is here, with {done.verdicts} verdicts",
    )  # fmt: skip
    if done.superseded:
        output.note(f"{done.superseded} older verdicts were left out: a later one is here")
    return ExitCode.OK


@bundle.command()
@_file
@click.option(
    "--to", "destination", type=click.Path(path_type=Path), required=True,
    help="Directory to write engine/ and evidence.json into; must not exist.",
)  # fmt: skip
@click.option("--trust", "trust_file", type=NamedPath(), help="Another trust file than ours.")
@_digest
@json_option
def unpack(
    file: Path, destination: Path, trust_file: Path | None, sha256: str | None, as_json: bool
) -> int:
    """Write the engine in FILE into a directory, verified; needs no catalogue and no store."""
    from enginekeeper.orchestration.bench import open_bench
    from registry.bundles import check_digest
    from registry.bundles import unpack as unpacked
    from registry.trust_file import read_trust

    trust = open_bench().trust if trust_file is None else read_trust(trust_file)
    if sha256 is not None:
        check_digest(file, sha256)
    evidence = unpacked(file, trust, destination)
    Output(as_json).outcome(
        {"engine": str(evidence.manifest.digest), "path": str(destination.resolve())},
        f"engine {evidence.manifest.digest.short} verified and written to {destination}",
    )
    return ExitCode.OK
