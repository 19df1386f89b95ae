"""Nothing is collected inside, and afterwards it is as it was, whatever happened."""

from __future__ import annotations

import gc

import pytest

from enginekeeper.uncollected import uncollected


def test_nothing_is_collected_inside_and_all_is_afterwards() -> None:
    with uncollected(), uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_fails_inside_lets_it_go_on() -> None:
    with pytest.raises(ValueError, match="broken"), uncollected():
        raise ValueError("broken")
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
