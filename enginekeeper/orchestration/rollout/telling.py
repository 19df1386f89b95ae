"""Tells a wave's webhook where the wave is, if there is one that has not taken it yet."""

from __future__ import annotations

from datetime import datetime

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.rollout.webhook import deliver
from enginekeeper.settings import Settings
from registry.service import Registry
from registry.signers import pin_in
from registry.waves.types import Wave

_SHORTEST = 16
"""Bytes of a secret: shorter ones are guessed."""


def webhook_secret(settings: Settings) -> bytes:
    """Returns the secret that signs messages; raises InputError where there is none to use."""
    place = settings.webhook_secret_file
    if place is None:
        raise InputError(
            "a webhook needs a secret that signs what it is sent",
            where="ENGINEKEEPER_WEBHOOK_SECRET_FILE",
            expected="a file that only you may read",
            remedy="openssl rand -hex 32 > FILE; chmod 600 FILE",
        )
    secret = pin_in(place)("webhook secret").encode()
    if len(secret) < _SHORTEST:
        raise InputError(
            "the webhook secret is too short", where=str(place),
            actual=f"{len(secret)} bytes", expected=f"{_SHORTEST} at least",
        )  # fmt: skip
    return secret


def tell(registry: Registry, settings: Settings, wave: Wave, *, now: datetime) -> str | None:
    """Sends where a wave is, if that is news to its webhook; says what went wrong, or None.

    A webhook that does not answer stops no wave: it is told when the wave goes on next.
    """
    if wave.webhook is None or wave.notified >= wave.version:
        return None
    try:
        deliver(wave, wave.webhook, webhook_secret(settings), now=now)
    except UnavailableError as error:
        return str(error)
    with registry.catalogue.edit(actor=registry.actor) as changes:
        changes.waves.notified(wave.name, wave.version)
    return None
