"""Builds that failed for a cause that trying again does not help: not tried again by everyone.

Rules:

- only causes that lie in what the engine key names are remembered, not those of a host;
- what is remembered expires, and `--retry-failed` asks for it sooner;
- another toolchain, step, recipe or option is another key, and is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from enginekeeper.orchestration.bench import Bench
from enginekeeper.specs.variants import Variant
from enginekeeper.toolchains.errors import DiagnosedStepError
from registry.digests import Digest
from registry.failures.types import BuildFailure
from registry.keys import EngineKey

REMEMBERED = timedelta(days=14)
"""Longer than nightly builds come round, shorter than a mended table stays unnoticed."""


@contextmanager
def remembering(bench: Bench, variant: Variant, key: EngineKey) -> Iterator[None]:
    """Remembers the failure of a build in the catalogue, if trying again does not help."""
    try:
        yield
    except DiagnosedStepError as error:
        _remember(bench, variant, key, error)
        raise


def known_failures(bench: Bench) -> dict[Digest, BuildFailure]:
    """Returns why builds are not to be tried again now, by their keys."""
    with bench.registry.catalogue.read() as view:
        return {one.key: one for one in view.failures.standing(datetime.now(UTC))}


def _remember(bench: Bench, variant: Variant, key: EngineKey, error: DiagnosedStepError) -> None:
    # the table of patterns takes pydantic, and is read by now: it knew the cause
    from enginekeeper.toolchains.taxonomy import LASTING  # noqa: PLC0415

    if error.group not in LASTING:
        return
    now = datetime.now(UTC)
    failure = BuildFailure(
        key=key.digest(),
        variant=str(variant.identifier),
        toolchain=variant.toolchain,
        group=error.group,
        pattern=error.pattern,
        cause=error.what,
        remedy=error.remedy or "",
        log=tuple(error.log),
        simulated=variant.profile.simulated,
        failed_at=now,
        expires_at=now + REMEMBERED,
        actor=bench.registry.actor,
    )
    with bench.registry.catalogue.edit(actor=bench.registry.actor) as draft:
        draft.failures.remember(failure)
