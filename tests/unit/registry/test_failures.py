"""Remembered failures: the latest of each key, until it expires."""

from __future__ import annotations

from datetime import timedelta

from registry.catalogue import Catalogue
from registry.digests import digest_bytes
from tests.factories.failures import NOON, failure
from tests.factories.registry import Workbench

ONE, OTHER = digest_bytes(b"one"), digest_bytes(b"other")
LATER = NOON + timedelta(days=20)


def _remember(catalogue: Catalogue, *failures: object) -> None:
    with catalogue.edit(actor="anna") as draft:
        for one in failures:
            draft.failures.remember(one)  # type: ignore[arg-type]


def test_the_latest_failure_of_a_key_counts(bench: Workbench) -> None:
    catalogue = bench.registry.catalogue
    _remember(catalogue, failure(ONE), failure(ONE, cause="another"), failure(OTHER))

    with catalogue.read() as view:
        listed = {one.key: one for one in view.failures.standing(NOON)}

    assert listed == {ONE: failure(ONE, cause="another"), OTHER: failure(OTHER)}


def test_one_that_has_expired_is_none_and_goes_with_the_next(bench: Workbench) -> None:
    catalogue = bench.registry.catalogue
    _remember(catalogue, failure(ONE))
    with catalogue.read() as view:
        assert view.failures.standing(NOON + timedelta(days=14)) == []
        assert view.failures.standing(LATER) == []

    _remember(catalogue, failure(OTHER, failed_at=LATER, expires_at=LATER + timedelta(days=14)))

    with catalogue.read() as view:
        assert [one.key for one in view.failures.standing(NOON)] == [OTHER]


def test_every_change_is_in_the_audit_log(bench: Workbench) -> None:
    catalogue = bench.registry.catalogue
    _remember(catalogue, failure(ONE))

    with catalogue.edit(actor="anna") as draft:
        assert draft.failures.forget(ONE)
        assert not draft.failures.forget(ONE)

    with catalogue.read() as view:
        actions = [entry.action for entry in view.audit_entries()]
    assert actions[-2:] == ["build failure", "build failure forget"]
