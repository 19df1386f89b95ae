"""Puts engines into the channel that a build was asked to fill."""

from __future__ import annotations

from enginekeeper.orchestration.bench import Bench
from registry.digests import Digest
from registry.errors import RegistryError


def into_channel(bench: Bench, channel: str | None, engine: Digest) -> str | None:
    """Puts an engine into a channel, if one is asked for; says what happened, never raises."""
    if channel is None:
        return None
    try:
        bench.registry.set_channel(channel, engine, bench.environment, actor="build flow")
    except RegistryError as error:
        return f"{channel}: refused: {error.what}"
    return f"{channel}: set"
