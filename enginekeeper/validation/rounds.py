"""The order in which prompts are scored: rounds of about the same mixture, short prompts first.

A run that may stop on its way should at every stop have seen every kind of text, and should not
begin with the longest.
"""

from __future__ import annotations

from enginekeeper.validation.tokens import TokenizedSuite

Rounds = tuple[tuple[int, ...], ...]
"""The prompts of each round by their numbers in the suite."""


def rounds_of(tokens: TokenizedSuite) -> Rounds:
    """Deals the prompts of each kind evenly over the rounds; the kind with fewest sets how many.

    Kinds that would leave fewer than a quarter of the rounds of the largest kind do not count:
    they are spread over the rounds there are, so that one odd prompt does not make one round of
    everything.
    """
    kinds: dict[str, list[int]] = {}
    for number, prompt in enumerate(tokens.prompts):
        kinds.setdefault(prompt.stratum, []).append(number)
    most = max(len(members) for members in kinds.values())
    count = min(len(members) for members in kinds.values() if 4 * len(members) >= most)
    dealt: list[list[int]] = [[] for _ in range(count)]
    for members in kinds.values():
        for place, number in enumerate(members):
            dealt[place * count // len(members)].append(number)
    lengths = [prompt.positions for prompt in tokens.prompts]
    return tuple(tuple(sorted(one, key=lambda number: (lengths[number], number))) for one in dealt)


def order_of(rounds: Rounds) -> tuple[int, ...]:
    """Returns all prompts in the order in which they are scored."""
    return tuple(number for one in rounds for number in one)


def pending_after(rounds: Rounds, scored: int) -> int:
    """Returns how many prompts of the round begun last are missing when that many were scored."""
    end = 0
    for one in rounds:
        end += len(one)
        if scored <= end:
            return end - scored
    raise ValueError(f"{scored} prompts were scored, there are {end}")
