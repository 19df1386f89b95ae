"""The application's errors: one family for each thing a caller can do about a failure.

The exit code of each family is in `enginekeeper.cli._errors`; nothing below the CLI exits.
"""

from __future__ import annotations

from registry.errors import DiagnosedError


class EngineKeeperError(DiagnosedError):
    """The root of everything the application raises."""


class InputError(EngineKeeperError):
    """A spec, a model directory, a checkpoint or an option is not usable as it is."""


class MissingError(EngineKeeperError):
    """A name that was asked for does not exist."""


class StepError(EngineKeeperError):
    """A step failed; subclasses say how."""


class UnavailableError(EngineKeeperError):
    """A backend, a toolchain, the network or the disk is not there."""
