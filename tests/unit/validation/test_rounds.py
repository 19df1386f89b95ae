from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.validation.rounds import pending_after, rounds_of
from enginekeeper.validation.suites import bundled_suite, load_suite
from enginekeeper.validation.tokens import TokenizedPrompt, TokenizedSuite

suites = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(2, 40)), min_size=1, max_size=60
).map(
    lambda prompts: TokenizedSuite(
        tuple(
            TokenizedPrompt(f"p{number}", stratum, tuple([1] * length))
            for number, (stratum, length) in enumerate(prompts)
        ),
        8,
    )
)


@given(suites)
def test_every_prompt_is_in_one_round(tokens: TokenizedSuite) -> None:
    dealt = [number for one in rounds_of(tokens) for number in one]

    assert sorted(dealt) == list(range(len(tokens.prompts)))


@given(suites)
def test_rounds_are_alike(tokens: TokenizedSuite) -> None:
    rounds = rounds_of(tokens)
    for kind in "abcd":
        counts = [sum(tokens.prompts[n].stratum == kind for n in one) for one in rounds]
        assert max(counts) - min(counts) <= 1


@given(suites)
def test_short_prompts_come_first_in_a_round(tokens: TokenizedSuite) -> None:
    for one in rounds_of(tokens):
        lengths = [tokens.prompts[number].positions for number in one]
        assert lengths == sorted(lengths)


@given(suites)
def test_what_is_pending_ends_with_the_round(tokens: TokenizedSuite) -> None:
    rounds = rounds_of(tokens)
    ends = [sum(len(one) for one in rounds[: n + 1]) for n in range(len(rounds))]

    assert all(pending_after(rounds, end) == 0 for end in ends)
    assert pending_after(rounds, 1) == len(rounds[0]) - 1


def test_more_than_there_is_was_never_scored() -> None:
    with pytest.raises(ValueError, match="there are 2"):
        pending_after(((0,), (1,)), 3)


def test_smoke_is_three_rounds_of_every_kind() -> None:
    suite = load_suite(bundled_suite("smoke"))
    tokens = TokenizedSuite(
        tuple(TokenizedPrompt(p.id, p.stratum, (1, 2)) for p in suite.prompts), 8
    )

    rounds = rounds_of(tokens)

    assert [len({suite.prompts[n].stratum for n in one}) for one in rounds] == [8, 8, 8]
