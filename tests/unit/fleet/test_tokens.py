"""Tokens: whose they say to be, and that nothing but the whole token is one."""

from __future__ import annotations

import pytest

from enginekeeper.fleet.tokens import is_token, make_token, node_of, token_digest


def test_a_token_says_whose_it_is() -> None:
    assert node_of(make_token("gpu-1.rack_7")) == "gpu-1.rack_7"


def test_no_two_tokens_are_the_same() -> None:
    assert make_token("gpu-1") != make_token("gpu-1")


def test_a_token_is_known_by_its_digest_alone() -> None:
    token = make_token("gpu-1")
    assert is_token(token, token_digest(token))
    assert not is_token(token[:-1], token_digest(token))
    assert token not in token_digest(token)


@pytest.mark.parametrize(
    "text", ["", "ek1", "ek1.x", "ek1.x.", "ek1..gpu-1", "ek2.x.gpu-1", "ek1.x.../etc", "x" * 300,
             "ek1." + "x" * 300 + ".gpu-1", "ek1.x.a'; DROP TABLE nodes", "ek1.x.\u00e9"]
)  # fmt: skip
def test_what_cannot_be_a_token_is_nobodys(text: str) -> None:
    assert node_of(text) is None
