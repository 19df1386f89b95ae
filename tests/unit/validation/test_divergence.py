from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from enginekeeper.errors import InputError
from enginekeeper.validation.divergence import SMALLEST_REST, compare, kl_on_partition
from enginekeeper.validation.scores import Scores
from enginekeeper.validation.tokens import TokenizedSuite

TOLERANCE = 1e-6

logits = hnp.arrays(np.float64, (3, 40), elements=st.floats(-12, 12))


def log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = values - values.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def best(p: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    return np.argsort(-p, axis=1)[:, :k]


def partition_kl(p: NDArray[np.float64], q: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    ids = best(p, k)
    return kl_on_partition(
        np.take_along_axis(p, ids, axis=1).astype(np.float32),
        np.take_along_axis(q, ids, axis=1).astype(np.float32),
    )


@given(a=logits, b=logits, k=st.integers(1, 39))
def test_the_partition_bounds_the_full_divergence_from_below(
    a: NDArray[np.float64], b: NDArray[np.float64], k: int
) -> None:
    p, q = log_softmax(a), log_softmax(b)
    full = (np.exp(p) * (p - q)).sum(axis=1)
    rest = 1 - np.exp(np.take_along_axis(q, best(p, k), axis=1)).sum(axis=1)
    # a rest is one minus float32 numbers: known to some of their last places, whatever its size
    blur = k * 2.0**-23 / np.maximum(rest, 1e-12)

    allowed = TOLERANCE * (1 + full) + np.minimum(blur, 0.02 * full)
    assert (partition_kl(p, q, k) <= full + allowed).all()


def test_a_small_rest_is_known_to_what_float32_leaves_of_it() -> None:
    p, q = log_softmax(np.zeros((1, 40))), log_softmax(np.eye(1, 40) * 8 + np.eye(1, 40, 1) * 10)
    full = float((np.exp(p) * (p - q)).sum())

    assert float(partition_kl(p, q, 2)[0]) == pytest.approx(full, abs=1e-4)


@given(a=logits, b=logits, k=st.integers(1, 39))
def test_divergence_is_never_negative(
    a: NDArray[np.float64], b: NDArray[np.float64], k: int
) -> None:
    assert (partition_kl(log_softmax(a), log_softmax(b), k) >= 0).all()


@given(a=logits, k=st.integers(1, 39))
def test_equal_arms_diverge_by_exactly_nothing(a: NDArray[np.float64], k: int) -> None:
    p = log_softmax(a)

    assert (partition_kl(p, p, k) == 0).all()


@given(a=logits, b=logits)
@example(a=np.zeros((3, 40)) + np.eye(1, 40) * 11, b=np.eye(1, 40) * 20 + np.full((3, 40), -8.0))
def test_more_of_the_best_tokens_never_lower_the_bound(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> None:
    p, q = log_softmax(a), log_softmax(b)

    fewer, more = partition_kl(p, q, 5), partition_kl(p, q, 20)

    # what q's rest is less than the smallest one, `more` is understated by
    others = np.argsort(-p, axis=1)[:, 20:]
    p_rest, q_rest = (np.exp(np.take_along_axis(x, others, axis=1)).sum(axis=1) for x in (p, q))
    understated = p_rest * np.log(np.maximum(q_rest, SMALLEST_REST) / q_rest)
    # float32 leaves a rest below 1e-6 known to some percent: only arms far apart have one
    assert (fewer <= 1.02 * (more + understated) + 2 * TOLERANCE).all()


@given(a=logits, b=logits, seed=st.integers(0, 1000))
def test_the_order_of_rows_and_tokens_does_not_matter(
    a: NDArray[np.float64], b: NDArray[np.float64], seed: int
) -> None:
    p, q = log_softmax(a).astype(np.float32), log_softmax(b).astype(np.float32)
    generator = np.random.default_rng(seed)
    columns, rows = generator.permutation(12), generator.permutation(3)

    moved = kl_on_partition(p[rows][:, :12][:, columns], q[rows][:, :12][:, columns])

    np.testing.assert_allclose(moved, kl_on_partition(p[:, :12], q[:, :12])[rows], atol=1e-12)


def test_a_known_case_has_its_textbook_value() -> None:
    p = np.log(np.array([[0.5, 0.25]], dtype=np.float32))
    q = np.log(np.array([[0.25, 0.25]], dtype=np.float32))

    expected = 0.5 * np.log(2) + 0.25 * np.log(0.25 / 0.5)

    assert kl_on_partition(p, q)[0] == pytest.approx(expected, abs=1e-7)


def test_a_token_that_q_rules_out_gives_a_large_finite_number() -> None:
    p = np.log(np.array([[0.9]], dtype=np.float32))
    q = np.array([[-1000.0]], dtype=np.float32)

    assert 100 < kl_on_partition(p, q)[0] < 1000


def test_an_arm_compared_with_itself_agrees_everywhere(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    source = arm()

    comparison = compare(source, arm(targets={"source": source}), tokens, at="source")

    assert comparison.mean(comparison.agree) == 1.0
    assert comparison.mean(comparison.kl) == 0.0
    assert comparison.mean(comparison.loss) == 0.0


def test_per_prompt_sums_add_up_to_the_mean(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    source = arm()
    comparison = compare(source, arm(noise=0.5, targets={"source": source}), tokens, at="source")

    sums = comparison.per_prompt(comparison.kl)

    assert comparison.sizes.tolist() == [prompt.positions for prompt in tokens.prompts]
    assert sums.sum() / comparison.sizes.sum() == pytest.approx(comparison.mean(comparison.kl))
    by_stratum = comparison.by_stratum()
    assert list(by_stratum) == ["prose", "code", "digits", "chat"]


def test_the_worst_window_is_where_the_damage_is(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    source = arm()
    engine = arm(targets={"source": source})
    damaged = engine.at["source"].copy()
    start = int(engine.offsets[20])
    damaged[start + 4] = np.log(1e-4)
    engine = replace(engine, at={"source": damaged})

    window = compare(source, engine, tokens, at="source").worst_window()

    assert window.prompt == "p20"
    assert window.start <= 4 < window.stop
    assert window.stop - window.start == 32


def test_rows_that_are_not_finite_are_counted_not_averaged(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    source = arm()
    engine = arm(targets={"source": source})
    finite = engine.finite.copy()
    finite[3] = False
    engine.at["source"][3] = np.nan
    engine = replace(engine, finite=finite)

    comparison = compare(source, engine, tokens, at="source")

    assert comparison.excluded == 1
    assert comparison.positions == source.positions - 1
    assert np.isfinite(comparison.mean(comparison.kl))


def test_a_tie_for_the_best_token_is_agreement(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    source = arm()
    engine = arm(targets={"source": source})
    engine.at["source"][:, 0] = engine.top_logprobs[:, 0]
    other = replace(engine, top_ids=np.roll(engine.top_ids, 1, axis=1))

    comparison = compare(source, other, tokens, at="source")

    assert comparison.agree.all()


def test_an_arm_that_was_not_scored_at_the_target_is_refused(
    tokens: TokenizedSuite, arm: Callable[..., Scores]
) -> None:
    with pytest.raises(InputError, match="was not scored at the best tokens"):
        compare(arm(), arm(), tokens, at="twin")
