"""Synthetic arms over a small suite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite
from tests.factories.arms import small_suite, synthetic_arm


@pytest.fixture
def tokens() -> TokenizedSuite:
    """Twenty-four prompts of 20 to 43 tokens in four strata."""
    return small_suite()


@pytest.fixture
def arm(tokens: TokenizedSuite) -> Callable[..., Scores]:
    """Makes one arm: the model's logits, plus noise, plus decode noise, scored at targets."""
    return partial(synthetic_arm, tokens)
