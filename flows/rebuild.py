"""The rebuild flow: the build flow for each spec in turn; one that fails does not stop the rest."""

from __future__ import annotations

from prefect import flow

from enginekeeper.orchestration.order import RebuildOrder
from enginekeeper.orchestration.outcome import Outcome
from enginekeeper.orchestration.rebuilding import attempted
from enginekeeper.orchestration.remote import left
from enginekeeper.orchestration.start import load_flow


@flow(name="enginekeeper-rebuild", persist_result=False)
def rebuild(order: RebuildOrder) -> list[Outcome]:
    """Judges again and builds what an order names; each of its builds is a run of its own."""
    build = load_flow("build")
    return left(lambda: [made for one in order.builds for made in attempted(build, one)])
