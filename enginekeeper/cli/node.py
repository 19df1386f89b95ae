"""`node` and `nodes`: who belongs to the fleet, and how each node is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._confirm import destroys, require_yes
from enginekeeper.cli._errors import ExitCode
from enginekeeper.cli._options import json_option
from enginekeeper.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from registry.fleet.types import Node
    from registry.queries import View


@click.group()
def node() -> None:
    """Enrol nodes, show them, retire them."""


@node.command()
@click.argument("name")
@click.option("--simulated", is_flag=True, help="A node without real GPUs; never its own word.")
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=VALUE",
    help="A label that outweighs what the node calls itself, such as pool=h100.",
)  # fmt: skip
@click.option("--again", is_flag=True, help="A new token for an enrolled node; the old one ends.")
@json_option
def enroll(name: str, simulated: bool, labels: tuple[str, ...], again: bool, as_json: bool) -> int:
    """Let the node NAME speak to the service, and print its token.

    The token is shown this once: the catalogue keeps its SHA-256 alone. With --again a node whose
    disk was lost starts over.
    """
    from datetime import UTC, datetime

    from enginekeeper.cli._labels import read_label
    from enginekeeper.fleet.tokens import make_token, token_digest
    from enginekeeper.orchestration.bench import open_bench
    from registry.names import check_component

    check_component(name, where="node")
    if again and (simulated or labels):
        raise click.UsageError("--again changes the token alone; labels: enginekeeper node label")
    token = make_token(name)
    registry = open_bench().registry
    with registry.catalogue.edit(actor=registry.actor) as draft:
        if again:
            draft.fleet.renew(name, token_digest(token))
        else:
            draft.fleet.enroll(
                name, token_digest(token), simulated=simulated,
                labels=dict(map(read_label, labels)), at=datetime.now(UTC),
            )  # fmt: skip
    output = Output(as_json)
    output.document({"node": name, "simulated": simulated, "token": token}, token)
    output.note(f"node {name} is enrolled; its token is above, and nowhere else")
    return ExitCode.OK


@node.command()
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL=VALUE|LABEL-...")
@json_option
def label(name: str, labels: tuple[str, ...], as_json: bool) -> int:
    """Set labels of the node NAME, or remove one: `pool=h100 zone-`.

    They count with the node's next report, which the service asks for at its next heartbeat.
    """
    from enginekeeper.cli._labels import read_label
    from enginekeeper.orchestration.bench import open_bench

    changes: dict[str, str | None] = {
        **{one.removesuffix("-"): None for one in labels if "=" not in one and one.endswith("-")},
        **dict(read_label(one) for one in labels if "=" in one or not one.endswith("-")),
    }
    registry = open_bench().registry
    with registry.catalogue.edit(actor=registry.actor) as draft:
        found = draft.fleet.relabel(name, changes)
    Output(as_json).outcome(found.as_dict(), f"node {name}: {_labels(found.labels)}")
    return ExitCode.OK


@node.command()
@click.argument("name")
@destroys
@json_option
def retire(name: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """End the enrolment of the node NAME: its token opens nothing any more.

    What ran on it stays in the history; nothing on the node itself is touched.
    """
    from datetime import UTC, datetime

    from enginekeeper.orchestration.bench import open_bench

    registry, output = open_bench().registry, Output(as_json)
    with registry.catalogue.read() as view:
        found = view.fleet.node(name)
        engines = len(view.fleet.engines_on(found))
    output.note(f"node {name}: {engines} engines on it")
    if dry_run:
        output.document(found.as_dict(), "nothing was changed")
        return ExitCode.OK
    require_yes(f"Retire node {name}?", yes=yes)
    with registry.catalogue.edit(actor=registry.actor) as draft:
        found = draft.fleet.retire(name, datetime.now(UTC))
    output.outcome(found.as_dict(), f"node {name} is retired")
    return ExitCode.OK


@node.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> int:
    """Show the node NAME: GPUs, driver, engines, history, what should run on it."""
    from datetime import UTC, datetime

    from enginekeeper.cli._node_text import node_document, node_text
    from enginekeeper.orchestration.bench import open_bench

    document = node_document(open_bench().registry, name, datetime.now(UTC))
    Output(as_json).document(document, node_text(document))
    return ExitCode.OK


@click.command()
@click.option(
    "--nodes", "selectors", multiple=True, metavar="SELECTOR",
    help="Only nodes of this name, or LABEL=VALUE; both take globs and braces.",
)  # fmt: skip
@click.option("--retired", is_flag=True, help="Also those that were retired.")
@json_option
def nodes(selectors: tuple[str, ...], retired: bool, as_json: bool) -> int:
    """List the enrolled nodes: GPUs, driver, when heard last, health."""
    from datetime import UTC, datetime

    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.specs.selectors import pick_nodes

    with open_bench().registry.catalogue.read() as view:
        rows = _rows(view, view.fleet.nodes(retired=retired), datetime.now(UTC))
    rows = pick_nodes(rows, selectors, lambda row: (row["node"], row["labels"]))
    output = Output(as_json)
    if as_json:
        output.json(rows)
        return ExitCode.OK
    columns = ("node", "gpus", "driver", "engines", "heard", "health", "why", "labels")
    output.table([_shown(row) for row in rows], columns)
    if any(row["simulated"] for row in rows):
        output.note("SIMULATED: some of these nodes are no real ones")
    return ExitCode.OK


node.add_command(nodes, "list")


def _rows(view: View, found: Sequence[Node], now: datetime) -> list[dict[str, Any]]:
    from enginekeeper.fleet.health import age, diagnose
    from enginekeeper.fleet.profiles import Profile

    documents = view.fleet.profiles()
    profiles = {row: Profile.of_document(document) for row, document in documents.items()}
    sets = view.fleet.engine_sets()
    rows = []
    for one in found:
        profile = None if one.profile is None else profiles[one.profile]
        problems = None if profile is None else profile.ills
        health = diagnose(problems, one.seen_at, now, clock_offset=one.clock_offset)
        rows.append(
            {
                **one.as_dict(),
                "labels": dict(one.labels if profile is None else profile.labels),
                "gpus": None if profile is None else profile.gpus_in_words,
                "driver": profile.driver.version if profile and profile.driver else None,
                "engines": None if one.engine_set is None else len(sets[one.engine_set]),
                "heard": None if one.seen_at is None else age(one.seen_at, now),
                "health": "retired" if one.retired_at else str(health.health),
                "why": list(health.reasons),
            }
        )
    return rows


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "node": f"{row['node']} SIMULATED" if row["simulated"] else row["node"],
        "labels": _labels(row["labels"]),
        "why": "; ".join(row["why"]),
    }


def _labels(labels: dict[str, str] | Any) -> str:  # noqa: ANN401 - any mapping of texts
    return " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
