"""The latest verdict of an engine, verified before any of it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginekeeper.orchestration.bench import Bench
    from registry.types import Engine, Verdict


def latest_verdict(bench: Bench, found: Engine) -> Verdict:
    """Returns the latest verdict; raises MissingError for an engine that was never judged."""
    from enginekeeper.errors import MissingError

    verdicts = bench.registry.verdicts(found.digest)
    if not verdicts:
        raise MissingError(
            "the engine was never judged",
            where=f"engine {found.digest.short}",
            remedy="enginekeeper build SPEC judges what it builds",
        )
    return verdicts[0]


def verified_document(bench: Bench, engine_id: str) -> tuple[Engine, Mapping[str, Any]]:
    """Returns an engine and the document of its latest verdict, both verified."""
    found = bench.registry.engine(engine_id)
    latest = latest_verdict(bench, found)
    bench.registry.verify_engine(found)
    bench.registry.verify_verdict(found, latest)
    return found, bench.registry.verdict_document(latest)
