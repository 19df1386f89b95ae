"""Answers a scoring step that asks after every prompt whether to go on.

The decision is that of `enginekeeper.validation.stopping`, made here from what the step shows: the
step has no opinion. The other side is `enginekeeper/steps/_rounds.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginekeeper.validation.evidence import Evidence, Stop
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.rounds import Rounds, order_of, pending_after, rounds_of
from enginekeeper.validation.scores import Scores, joined, load_scores
from enginekeeper.validation.stopping import stop_here
from enginekeeper.validation.tokens import TokenizedSuite
from registry.files import write_whole

_ASKED = re.compile(r"ask (\d{1,9})")

Order = tuple[int, ...]
"""Prompts by their numbers in the suite, in the order they were scored."""

Known = Callable[[Scores, Order], Evidence]
"""Puts an engine's scores of some prompts beside everything that was known before."""


@dataclass
class Interim:
    """One run in rounds, seen from the side that decides."""

    tokens: TokenizedSuite
    known: Known
    policy: AcceptancePolicy
    stop: Stop | None = None
    _finished: list[Scores] = field(default_factory=list)

    @property
    def rounds(self) -> Rounds:
        """The order in which the step is to score."""
        return rounds_of(self.tokens)

    @property
    def order(self) -> Order:
        """The prompts that were scored, if the step has ended."""
        order = order_of(self.rounds)
        return order if self.stop is None else order[: self.stop.prompts]

    def inputs(self) -> dict[str, Any]:
        """Returns what of the decision changes a score file: how far it reaches."""
        return {"rounds": [list(one) for one in self.rounds], "policy": self.policy.as_dict()}

    def answering(self, output: Path) -> Callable[[str], None]:
        """Returns what is to hear the lines of a step that writes this file."""
        self.stop = None
        self._finished.clear()

        def hear(line: str) -> None:
            if (asked := _ASKED.fullmatch(line.strip())) is not None:
                self._answer(output, int(asked[1]))

        return hear

    def _answer(self, output: Path, scored: int) -> None:
        order = order_of(self.rounds)[:scored]
        before = sum(part.prompts for part in self._finished)
        part = load_scores(
            output.with_name(output.name + ".part"), self.tokens.only(order[before:])
        )
        engine = joined([*self._finished, part])
        self.stop = stop_here(self.known(engine, order), self.policy, self.rounds)
        if pending_after(self.rounds, scored) == 0:
            self._finished.append(part)
        answer = output.with_name(output.name + ".answer")
        write_whole(answer, f"{scored} {'go' if self.stop is None else 'stop'}".encode())
