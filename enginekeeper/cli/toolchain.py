"""`toolchain`: the pinned environments that steps run in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._files import write_file
from enginekeeper.cli._options import NamedPath, json_option
from enginekeeper.cli._output import Output
from enginekeeper.cli._progress import show_progress

if TYPE_CHECKING:
    from enginekeeper.specs.releases import Release


@click.group()
def toolchain() -> None:
    """List, install, lock, check and describe toolchains."""


@toolchain.command("list")
@json_option
def list_command(as_json: bool) -> int:
    """List toolchains: what each is for, its state, and the disk it takes."""
    from enginekeeper.settings import Settings
    from enginekeeper.toolchains.catalogue import TOOLCHAINS
    from enginekeeper.toolchains.installation import state_of

    settings = Settings.from_environment()
    rows = [
        {
            "toolchain": one.name,
            "state": state_of(one, settings).value,
            "gigabytes": round(one.disk_bytes / 1e9, 1),
            "purpose": one.purpose,
        }
        for one in TOOLCHAINS.values()
    ]
    Output(as_json).table(rows, ("toolchain", "state", "gigabytes", "purpose"))
    return ExitCode.OK


@toolchain.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--prune", is_flag=True, help="Then remove their installations from other locks.")
@json_option
def sync(names: tuple[str, ...], prune: bool, as_json: bool) -> int:
    """Install toolchains from their lock files; what is installed already is left alone."""
    from enginekeeper.settings import Settings
    from enginekeeper.toolchains.catalogue import find_toolchain
    from enginekeeper.toolchains.installation import remove_leftovers
    from enginekeeper.toolchains.prerequisites import check_prerequisites
    from enginekeeper.toolchains.sync import ensure

    show_progress()
    settings = Settings.from_environment()
    check_prerequisites([find_toolchain(name) for name in names], settings)
    output, ready = Output(as_json), []
    for name in names:
        python = ensure(name, settings)
        output.note(f"{name}: ready")
        gone = remove_leftovers(find_toolchain(name), settings) if prune else ()
        removed = [str(path) for path in gone]
        for path in removed:
            output.note(f"{name}: removed {path}")
        ready.append({"toolchain": name, "python": str(python), "removed": removed})
    if as_json:
        output.json(ready)
    return ExitCode.OK


@toolchain.command()
@click.argument("name")
@json_option
def lock(name: str, as_json: bool) -> int:
    """Resolve a toolchain anew, write its lock file and print where it is; installs nothing."""
    from enginekeeper.settings import Settings
    from enginekeeper.toolchains.catalogue import find_toolchain
    from enginekeeper.toolchains.locking import write_lock

    show_progress()
    path = write_lock(find_toolchain(name), Settings.from_environment())
    Output(as_json).document({"toolchain": name, "lock": str(path)}, str(path))
    return ExitCode.OK


@toolchain.command()
@click.option("--deep", is_flag=True, help="Import every toolchain too: tens of seconds.")
@json_option
def doctor(deep: bool, as_json: bool) -> int:
    """Check this machine and its toolchains; exits 10 if runs would stop at something."""
    from enginekeeper.settings import Settings
    from enginekeeper.toolchains.doctor import examine

    findings = examine(Settings.from_environment(), deep=deep)
    rows = [
        {
            "subject": one.subject,
            "health": one.health.value,
            "detail": one.detail,
            "next": one.remedy,
        }
        for one in findings
    ]
    Output(as_json).table(rows, ("subject", "health", "detail", "next"))
    bad = any(row["health"] == "bad" for row in rows)
    return ExitCode.UNAVAILABLE if bad else ExitCode.OK


@toolchain.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> int:
    """Show what is known of a release of TensorRT-LLM: versions, recipes, options of trtllm-build.

    What nobody has verified is marked. Nothing of it has been run on a GPU by Enginekeeper.
    """
    from enginekeeper.cli._release_text import release_document, release_text
    from enginekeeper.specs.profiles import toolchain_profiles

    release = release_named(name)
    document = release_document(toolchain_profiles()[release.name], release)
    Output(as_json).document(document, release_text(document))
    return ExitCode.OK


@toolchain.command("container")
@click.argument("name")
@click.option("--runtime", type=click.Choice(["docker", "podman", "apptainer", "kubernetes"]))
@click.option("--image", metavar="REF", help="NAME@sha256:DIGEST; for Apptainer an image file.")
@click.option("--python", default="/usr/bin/python3", show_default=True, help="Inside the image.")
@click.option("--namespace", help="Kubernetes: where jobs run.")
@click.option("--claim", help="Kubernetes: the claim whose volume is mounted here, too.")
@click.option("--at", type=click.Path(path_type=Path), help="Kubernetes: where it is mounted.")
@click.option("--tensorrt", metavar="A.B.C.D", help="What the image has: for timing caches.")
@click.option("--cuda-runtime", metavar="X.Y", help="What the image has: for timing caches.")
@click.option("--remove", is_flag=True, help="Let its steps run on this host again.")
@json_option
def container_command(
    name: str, runtime: str | None, image: str | None, python: str, namespace: str | None,
    claim: str | None, at: Path | None, tensorrt: str | None, cuda_runtime: str | None,
    remove: bool, as_json: bool,
) -> int:  # fmt: skip
    """Run a toolchain's steps in a container image on this host, or show how they are run.

    Without network, with what is read mounted read-only, with no signing key, on the one GPU that
    the build is for. The image is never pulled by a build: pull it before.
    """
    from enginekeeper.settings import Settings
    from enginekeeper.toolchains.catalogue import find_toolchain
    from enginekeeper.toolchains.containers.description import (
        container_of,
        described,
        remove_container,
        write_container,
    )

    settings, output = Settings.from_environment(), Output(as_json)
    found = find_toolchain(name)
    if remove:
        there = remove_container(name, settings)
        said = "runs on this host again" if there else "ran on this host already"
        output.document({"toolchain": name, "container": None}, f"{name} {said}")
        return ExitCode.OK
    if runtime is not None or image is not None:
        described_as = described(
            found, runtime, image, python, cluster=(namespace, claim, at),
            versions={"tensorrt": tensorrt, "nvidia-cuda-runtime": cuda_runtime},
        )  # fmt: skip
        write_container(name, described_as, settings)
    container = container_of(name, settings)
    document = None if container is None else container.as_dict()
    text = f"{name} runs on this host" if container is None else (
        f"{name} runs in {container.runtime}: {container.image}"
    )  # fmt: skip
    output.document({"toolchain": name, "container": document}, text)
    return ExitCode.OK


@toolchain.command("compare-help")
@click.argument("name")
@click.argument("help_file", type=NamedPath())
@click.option(
    "--write-table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the table of options with what HELP_FILE settles: specs/data is where it is kept.",
)
@json_option
def compare_help(name: str, help_file: Path, write_table: Path | None, as_json: bool) -> int:
    """Compare the options known of a release with its own `trtllm-build --help`, in HELP_FILE.

    Exits 7 where they contradict each other. Make the file in the release's container:
    trtllm-build --help > help.txt
    """
    from enginekeeper.specs.flag_drift import flag_drift
    from enginekeeper.specs.flag_table import settled_table
    from enginekeeper.specs.help_text import options_of_help, require_release

    release = release_named(name)
    require_trtllm_build(release)
    version = release.version
    text = help_file.read_text(encoding="utf-8", errors="replace")
    require_release(text, version, str(help_file))
    said = options_of_help(text, str(help_file))
    drift = flag_drift(version, said)
    if write_table is not None:
        write_file(write_table, settled_table(version, said))
    Output(as_json).table([one.as_dict() for one in drift], ("option", "what", "table", "tool"))
    return ExitCode.OK if all(one.settles for one in drift) else ExitCode.DRIFT


def require_trtllm_build(release: Release) -> None:
    """Raises InputError for a release that has no `trtllm-build` to compare with."""
    from enginekeeper.errors import InputError
    from enginekeeper.specs.releases import releases_with_engines

    if not release.builds_engines:
        raise InputError(
            f"{release.name} has no trtllm-build", expected=f"a release {releases_with_engines()}"
        )


def release_named(name: str) -> Release:
    """Returns a release of TensorRT-LLM by its toolchain's name; raises MissingError."""
    from enginekeeper.errors import MissingError
    from enginekeeper.specs.form import did_you_mean
    from enginekeeper.specs.releases import releases

    if name not in releases():
        raise MissingError(
            f"there is no release of TensorRT-LLM called {name}",
            expected=", ".join(releases()),
            remedy=did_you_mean(name, releases()),
        )
    return releases()[name]
