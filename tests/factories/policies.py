"""Acceptance policies for tests: the defaults, or with other limits."""

from __future__ import annotations

from dataclasses import asdict

from enginekeeper.specs.acceptance import Acceptance
from enginekeeper.validation.policy import AcceptancePolicy


def policy(**limits: float) -> AcceptancePolicy:
    """Returns the default policy with these limits in place."""
    return AcceptancePolicy(**{**asdict(Acceptance()), **limits})
