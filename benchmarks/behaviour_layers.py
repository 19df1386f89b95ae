"""Every layer of an edited engine beside its checkpoint's: what `--probes` sees of a drawn case.

    python benchmarks/behaviour_layers.py [N] [--seconds S]     # after `behaviour.py score`

Of each recipe: the engine as it was built, every fault that was scored to the end and did not
fail, and every control that was scored. A fault is held against the checkpoint twin of the healthy
export, a control against that of its own. Goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from behaviour import case_known, engine_of
from behaviour_lab import LAYERS, NUDGE, Lab, Recipe
from edit_desk import Requests, laid_over, serve

from enginekeeper.faults.behaviour import told
from enginekeeper.faults.draft import Draft
from enginekeeper.faults.sample import Drawn
from enginekeeper.orchestration.judging import PROBE_PROMPTS
from enginekeeper.orchestration.stages import PROBE_TOKENS
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.rounds import order_of
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.twin import (
    checkpoint_twin_of,
    is_checkpoint_twin,
    write_checkpoint_twin,
)


@dataclass
class Probing:
    """One run of the step, and what is asked of it."""

    recipe: Recipe
    until: float

    def run(self) -> None:
        """Asks until there is nothing left, or time is up."""
        with self.recipe.folder() as folder:
            self._healthy = folder / "healthy"
            write_checkpoint_twin(self.recipe.lab.model, self.recipe.export, self._healthy)
            serve(self.recipe, "layers", self._work())

    def _work(self) -> Requests:
        output = self.recipe.place / f"healthy{LAYERS}"
        if not output.is_file():
            yield self._request(self._healthy, output, {"dropped": []})
        faults, controls = self.recipe.cases()
        for one in (*faults, *controls):  # a control may need another twin: those come last
            if time.monotonic() > self.until:
                return
            if self._is_due(one):
                yield from self._case(one)

    def _is_due(self, one: Drawn) -> bool:
        if self.recipe.case_file(one.case.name, LAYERS).is_file():
            return False
        known = case_known(self.recipe, one.case.name)
        if known is None or known["outcome"] != "scored":
            return False
        arms = self.recipe.arms_of(one.case.name)
        engine, _ = engine_of(self.recipe, self.recipe.case_file(one.case.name, ".safetensors"))
        return one.case.fault.healthy or told(arms, engine).decision != "fail"

    def _case(self, one: Drawn) -> Requests:
        draft = Draft.open(self.recipe.export, self.recipe.lab.model)
        one.case.injection.apply(draft)
        output = self.recipe.case_file(one.case.name, LAYERS)
        with (
            laid_over(self.recipe, draft) as (edit, checkpoint),
            self._twin(one, checkpoint) as twin,
        ):
            said = yield self._request(twin, output, edit)
        print(one.case.name, said.get("refused", "asked"), flush=True)

    @contextmanager
    def _twin(self, one: Drawn, checkpoint: Checkpoint) -> Iterator[Path]:
        if not one.case.fault.healthy:
            yield self._healthy
            return
        with self.recipe.folder() as folder:
            source, twin = SourceModel.open(self.recipe.lab.model), folder / "own"
            if is_checkpoint_twin(self._healthy, source, checkpoint):
                yield self._healthy
                return
            checkpoint_twin_of(source, checkpoint, twin)
            yield twin

    def _request(self, twin: Path, output: Path, edit: dict[str, Any]) -> dict[str, Any]:
        prompts = list(order_of(self.recipe.arms.rounds)[:PROBE_PROMPTS])
        told_of = {"twin": str(twin), "nudge": NUDGE, "prompts": prompts, "longest": PROBE_TOKENS}
        return {**edit, "layers": told_of, "output": str(output)}


def main() -> int:
    """Asks of one recipe or of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=int, nargs="?")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    asked = parser.parse_args()
    lab, until = Lab.open(), time.monotonic() + asked.seconds
    for number in range(len(lab.exports())) if asked.recipe is None else [asked.recipe]:
        Probing(lab.recipe(number), until).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
