"""Measures the sequential test against the fixed one: error rates, and prompts and tokens needed.

`python benchmarks/sequential.py WORK [RUNS]` prints Markdown tables. WORK is a work store
(`<cache>/work`) with the scores of `make demo` or `make demo-all`; it is only read, and of whole
suites only (`--whole-suite`, as those are made). Prompts are
drawn again and again from the real per-prompt divergences of those engines, round by round, one of
each kind of text; "scaled" means that the shape is real and the mean was set. Divergences are in
limits of the fidelity line: 1 is what must not be passed, and what must not be failed either.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from enginekeeper.specs.acceptance import CONFIDENCE, MAX_FIDELITY_KL
from enginekeeper.validation import sequential
from enginekeeper.validation.divergence import compare
from enginekeeper.validation.fidelity import FAILING_CHECKS
from enginekeeper.validation.floor import FLOOR_FACTOR
from enginekeeper.validation.scores import load_scores
from enginekeeper.validation.statistics import estimate
from enginekeeper.validation.stopping import EFFECT, FEWEST_TO_PASS, SHARE
from enginekeeper.validation.tokens import TokenizedSuite, load_tokens
from registry.digests import digest_file

Doubles = NDArray[np.float64]

RUNS = 3_000
BUDGET = 240
ALPHA = (1.0 - CONFIDENCE) * SHARE / FAILING_CHECKS
BETA = (1.0 - CONFIDENCE) * SHARE
LIMIT = -np.log(ALPHA)

RARE = 0.1
"""The share of prompts that carries everything, in one of the stated distributions."""

NOTHING = 0.01
"""In limits: an engine nearer to its recipe has no shape of its own to be scaled."""


@dataclass(frozen=True)
class Shape:
    """Per-prompt divergences of one engine, in limits, with the prompts' kinds and lengths."""

    name: str
    values: Doubles
    kinds: NDArray[np.int64]
    lengths: Doubles

    @property
    def variation(self) -> float:
        """The coefficient of variation of one prompt within its kind."""
        inside = [self.values[self.kinds == kind].var(ddof=1) for kind in np.unique(self.kinds)]
        return float(np.sqrt(np.mean(inside)) / self.values.mean())

    def scaled(self, mean: float) -> Shape:
        """The same shape with another mean."""
        factor = mean / float(self.values.mean())
        name = f"{self.name}, scaled to {mean:g}"
        return Shape(name, self.values * factor, self.kinds, self.lengths)

    def draw(self, prompts: int, generator: np.random.Generator) -> tuple[Doubles, Doubles]:
        """Draws prompts round by round; within a round the short ones come first."""
        members = [np.flatnonzero(self.kinds == kind) for kind in np.unique(self.kinds)]
        rounds = -(-prompts // len(members))
        drawn = np.stack([generator.choice(one, rounds) for one in members], axis=1)
        order = np.argsort(self.lengths[drawn], axis=1, kind="stable")
        picked = np.take_along_axis(drawn, order, axis=1).ravel()[:prompts]
        return self.values[picked], self.lengths[picked]


def run(values: Doubles, of_round: int) -> tuple[str, int]:
    """Runs the sequential test over prompts in order; returns how and after how many it ended.

    The wealth after every prompt at once; where it decides it is computed again by the verdict's
    own functions, which must agree.
    """
    count = np.arange(1, len(values) + 1)
    pending = -count % of_round
    above = _wealth(sequential.ABOVE, values - 1.0, pending)
    y = np.minimum(values, sequential.CLIP)
    below = _wealth(sequential.BELOW, (1.0 - y) / (sequential.CLIP - 1.0), pending)
    whole = np.maximum.accumulate(values) <= sequential.CLIP
    failed = above >= LIMIT
    passed = (below >= -np.log(BETA)) & (pending == 0) & (count >= FEWEST_TO_PASS) & whole
    ended = np.flatnonzero(failed | passed)
    if not len(ended):
        return "open", len(values)
    at = int(ended[0])
    seen, left = values[: at + 1], int(pending[at])
    if failed[at]:
        same = sequential.log_wealth_above(seen, 1.0, left), above[at]
    else:
        same = sequential.log_wealth_below(seen, 1.0, sequential.CLIP, left), below[at]
    if not np.isclose(*same):
        raise AssertionError(f"two ways to the same wealth: {same}")
    return ("fail" if failed[at] else "pass"), at + 1


def _wealth(stakes: Doubles, gains: Doubles, pending: NDArray[np.int64]) -> Doubles:
    won = np.log1p(np.multiply.outer(stakes, gains)).cumsum(axis=1)
    won += np.multiply.outer(np.log1p(-stakes), pending)
    largest = won.max(axis=0)
    wealth: Doubles = largest + np.log(np.exp(won - largest).mean(axis=0))
    return wealth


def fixed_size(variation: float) -> int:
    """Returns how many prompts tell 0.75 and 1.25 from 1 at the error rates of a whole suite."""
    z = float(stats.norm.ppf(CONFIDENCE))
    z_fail = float(stats.norm.ppf(1.0 - (1.0 - CONFIDENCE) / FAILING_CHECKS))
    passing = variation * (z * 1.0 + z * (1.0 - EFFECT)) / EFFECT
    failing = variation * (z_fail * 1.0 + z * (1.0 + EFFECT)) / EFFECT
    return int(np.ceil(max(passing, failing) ** 2))


def fixed(values: Doubles, kinds: NDArray[np.int64]) -> str:
    """Judges a whole sample by the bounds of a verdict."""
    bounds = estimate(
        values,
        np.ones(len(values)),
        kinds,
        lower_confidence=1.0 - (1.0 - CONFIDENCE) / FAILING_CHECKS,
        upper_confidence=CONFIDENCE,
    )
    if bounds is None:
        raise ValueError(f"{len(values)} prompts are too few for a bound")
    if bounds.upper <= 1.0:
        return "pass"
    return "fail" if bounds.lower > 1.0 else "open"


def measured(work: Path) -> tuple[list[Shape], list[Shape]]:
    """Reads engines: how far each is from its own twin, and from the source (another recipe)."""
    products = [
        json.loads(p.read_text()) | {"path": p.parent} for p in work.glob("*/*/product.json")
    ]
    suites = {
        p["key"]: load_tokens(p["path"] / "tokens.json") for p in products if p["kind"] == "tokens"
    }
    files = {
        str(digest_file(path)): path
        for kind in ("twin-scores", "reference")
        for path in (work / kind).glob("**/scores.safetensors")
    }
    own, other = [], []
    for product in sorted(products, key=lambda one: str(one["path"])):
        inputs = product["inputs"]
        if product["kind"] != "engine-scores" or "interim" in inputs:
            continue  # a run that might have been ended has not all prompts, and another order
        targets = {name: files.get(one) for name, one in inputs["targets"].items()}
        if None in targets.values() or inputs["tokens"] not in suites:
            continue
        name, suite = product["path"].name[:6], suites[inputs["tokens"]]
        own.append(_shape(name, product["path"], targets["twin"], suite, "twin"))
        other.append(_shape(name, product["path"], targets["source"], suite, "source"))
    return own, other


def _shape(name: str, engine: Path, target: Path | None, suite: TokenizedSuite, at: str) -> Shape:
    if target is None:
        raise ValueError("no target")
    arm = load_scores(target, suite)
    scores = load_scores(engine / "scores.safetensors", suite)
    comparison = compare(arm, scores, suite, at=at)
    values = comparison.per_prompt(comparison.kl) / comparison.sizes
    noisy = target.with_name("nudged.safetensors")
    limit = MAX_FIDELITY_KL
    if at == "twin" and noisy.is_file():
        apart = compare(arm, load_scores(noisy, suite), suite, at="twin")
        limit = max(limit, FLOOR_FACTOR * apart.mean(apart.kl))
    nats = float(values.mean())
    label = f"{name}: {nats:.2g} nats from its {at}, {nats / limit:.2g} limits"
    return Shape(label, values / limit, suite.strata, comparison.sizes)


def synthetic(name: str, draw: Doubles) -> Shape:
    """A stated distribution with mean 1: many prompts of eight kinds."""
    kinds = np.arange(len(draw)) % 8
    return Shape(name, draw / draw.mean(), kinds, np.full(len(draw), 104.0))


def stated() -> list[Shape]:
    """Distributions with more prompts than any engine here has shown."""
    generator = np.random.default_rng(11)
    shapes = []
    for variation in (0.4, 1.0, 2.0, 4.0):
        sigma = np.sqrt(np.log(1 + variation**2))
        noise = np.exp(sigma * generator.standard_normal(4_000))
        shapes.append(synthetic(f"log-normal, variation {variation:g}", noise))
    shapes.append(synthetic("Pareto, index 1.5", 1 + generator.pareto(1.5, 4_000)))
    rare = (generator.random(4_000) < RARE).astype(np.float64)
    shapes.append(synthetic("one prompt in ten carries all", rare))
    return shapes


def table(title: str, shapes: list[Shape], runs: int) -> None:
    """Prints how the sequential test ends on each shape, and what it took."""
    print(f"\n{title}\n")
    print(
        "| prompts like | variation | pass | fail | open | prompts, median | tokens, median |",
        end="",
    )
    print(" tokens, p90 |\n|---|--:|--:|--:|--:|--:|--:|--:|")
    for shape in shapes:
        generator = np.random.default_rng(5)
        of_round = len(np.unique(shape.kinds))
        ends, counts, tokens = [], [], []
        for _ in range(runs):
            values, lengths = shape.draw(BUDGET, generator)
            end, count = run(values, of_round)
            ends.append(end)
            counts.append(count)
            tokens.append(lengths[:count].sum())
        share = " | ".join(
            f"{100 * ends.count(end) / runs:.2f} %" for end in ("pass", "fail", "open")
        )
        low, high = np.median(tokens), np.quantile(tokens, 0.9)
        print(
            f"| {shape.name} | {shape.variation:.2f} | {share} | {np.median(counts):.0f} "
            f"| {low:.0f} | {high:.0f} |",
            flush=True,
        )


def fixed_table(shapes: list[Shape], runs: int) -> None:
    """Prints the fixed sample that tells the smallest effect, and how often it does."""
    print("\n| shape | prompts, fixed | tokens | 0.75 passes | 1 passes | 1 fails | 1.25 fails |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for shape in shapes:
        kinds = len(np.unique(shape.kinds))
        prompts = -(-fixed_size(shape.variation) // kinds) * kinds
        ends: dict[float, list[str]] = {}
        for mean in (0.75, 1.0, 1.25):
            generator, scaled = np.random.default_rng(5), shape.scaled(mean)
            ends[mean] = [
                fixed(scaled.draw(prompts, generator)[0], np.arange(prompts) % kinds)
                for _ in range(runs)
            ]
        rates = [(0.75, "pass"), (1.0, "pass"), (1.0, "fail"), (1.25, "fail")]
        shown = " | ".join(f"{100 * ends[mean].count(end) / runs:.1f} %" for mean, end in rates)
        print(
            f"| {shape.name} | {prompts} | {prompts * shape.lengths.mean():.0f} | {shown} |",
            flush=True,
        )


def main() -> None:
    """Prints the tables."""
    work = Path(sys.argv[1])
    runs = int(sys.argv[2]) if sys.argv[2:] else RUNS
    own, other = measured(work)
    healthy = [shape for shape in own if shape.values.mean() <= 1.0]
    wrong = [shape for shape in (*own, *other) if shape.values.mean() > 1.0]
    print(
        f"{runs} runs each, at most {BUDGET} prompts; a failure spends {ALPHA:g}, a pass {BETA:g}"
    )
    table("Healthy engines", healthy, runs)
    table("At the limit: neither may happen", [one.scaled(1.0) for one in healthy] + stated(), runs)
    table("Wrong engines", wrong, runs)
    doses = (1.25, 2.0, 4.0, 10.0, 40.0)
    table("Doses", [wrong[0].scaled(dose) for dose in doses], runs)
    fixed_table([shape for shape in healthy if shape.values.mean() > NOTHING], runs // 10)


if __name__ == "__main__":
    main()
