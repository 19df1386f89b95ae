"""Why the server does not take a message of a node; each with the status that HTTP has for it."""

from __future__ import annotations

from enginekeeper.errors import InputError


class RefusedMessageError(InputError):
    """A message is not taken, and says what must be otherwise."""

    status = 422


class UnknownTokenError(RefusedMessageError):
    """Nobody was given this token, or it counts no more."""

    status = 401


class ForeignNodeError(RefusedMessageError):
    """The token is of another node than the message."""

    status = 403


class ReplayedError(RefusedMessageError):
    """The message is no newer than what was taken, or comes from a second node of the name."""

    status = 409


class TooLargeError(RefusedMessageError):
    """The message is larger than any such message."""

    status = 413
