"""Behaviour and audits on the same faults: a part of the grid, drawn by a seed beforehand.

    python benchmarks/behaviour.py prepare [N]      # per recipe: engine, twin, floor, dictionary
    python benchmarks/behaviour.py score [N] [--seconds S]  # the N-th recipe: into the executor
    python benchmarks/behaviour.py audit [N] [--seconds S]  # the N-th recipe: by files alone
    python benchmarks/behaviour.py table [--json]           # what was done so far
    python benchmarks/behaviour.py all                      # every part, of every recipe

`make bench-faults` does every part, asks the layers (behaviour_layers.py) and prints the table.
Takes exports and the reference of `make demo-all` from the cache, and writes below `faults/` in it.
Every command goes on where it was; S seconds are a piece of it. Cases are those of the newest
grid, `FAULTS` and `CONTROLS` of each recipe in the order of `enginekeeper.faults.sample` with SEED.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from behaviour_lab import LAYERS, PORTION, Lab, Recipe
from edit_desk import Requests, Said, desk_of, laid_over, serve
from safetensors.numpy import load_file, save_file

from enginekeeper.faults.behaviour import Told, told
from enginekeeper.faults.comparison import ORDERS, Record, document, render, shuffled
from enginekeeper.faults.draft import Draft, InapplicableError
from enginekeeper.faults.peers import Seen, alarms
from enginekeeper.faults.sample import Drawn
from enginekeeper.faults.trial import Bench, Trial
from enginekeeper.own_code import code_digest
from enginekeeper.validation.checkpoint import UnusableCheckpointError
from enginekeeper.validation.layers import LayerScores, load_layers
from enginekeeper.validation.rounds import order_of
from enginekeeper.validation.scores import Scores, load_scores
from registry.files import write_whole

FAULTS, CONTROLS = 30, 48
"""Of each recipe; behaviour takes as many from the beginning as were run."""

WAYS: dict[str, dict[str, int]] = {
    "batch 1": {"batch_size": 1},
    "batch 8": {"batch_size": 8},
    "chunks of 16": {"chunk_tokens": 16},
    "chunks of 64": {"chunk_tokens": 64},
}
"""How the healthy engine is executed otherwise; it is scored in batches of `PORTION`."""

PARTS = ("prepare", "audit", "score")

SAME = ("same numbers", "files only")
"""What came of a case whose engine is the one that was built of the healthy export."""


@dataclass
class Session:
    """One run of the step that scores edits, and what is asked of it."""

    recipe: Recipe
    until: float
    faults: int
    ways: bool

    def run(self) -> None:
        """Scores cases until there are no more, or time is up."""
        (self.recipe.place / "cases").mkdir(exist_ok=True)
        self._desk, self._warm = desk_of(self.recipe, "score"), set[int]()
        order = order_of(self.recipe.arms.rounds)
        portions = range(0, len(order), PORTION)
        self._portions = [list(order[first : first + PORTION]) for first in portions]
        serve(self.recipe, "score", self._work())

    def _work(self) -> Requests:
        yield from self._healthy()
        faults, controls = self.recipe.cases()
        for cases, wanted in ((faults, self.faults), (controls, CONTROLS)):
            count = 0
            for one in cases:
                if count >= wanted:
                    break
                known = self.recipe.case_file(one.case.name, ".json")
                if not known.is_file():
                    if time.monotonic() > self.until:
                        return
                    yield from self._case(one, known)
                count += json.loads(known.read_text())["outcome"] != "not applicable"
                print(count, one.case.name, known.read_text()[:150], flush=True)
        if self.ways:
            for name, way in WAYS.items():
                if time.monotonic() < self.until:
                    yield from self._way(name, way)

    def _healthy(self) -> Requests:
        """Scores the engine as it was built, once: a good build to compare with."""
        if (self.recipe.place / "healthy.safetensors").exists():
            return
        parts = []
        for number in range(len(self._portions)):
            part = yield from self._warmed(number)
            parts.append(part)
        _write_joined(parts, self.recipe.place / "healthy.safetensors")

    def _warmed(self, number: int) -> Generator[dict[str, Any], Said, Path]:
        """Lets the engine as it was built see a portion: edits begin where they differ from it."""
        output = self._desk / f"healthy-{number}.safetensors"
        if number not in self._warm:
            yield {"dropped": [], "prompts": self._portions[number], "output": str(output)}
            self._warm.add(number)
        return output

    def _way(self, name: str, way: dict[str, int]) -> Requests:
        output = self.recipe.place / f"way-{name.replace(' ', '-')}.safetensors"
        if not output.exists():
            prompts = list(order_of(self.recipe.arms.rounds))
            yield {"dropped": [], "prompts": prompts, "output": str(output), **way}

    def _case(self, one: Drawn, known: Path) -> Requests:
        draft = Draft.open(self.recipe.export, self.recipe.lab.model)
        try:
            one.case.injection.apply(draft)
        except InapplicableError as error:
            _record(known, one, "not applicable", said=error.what)
            return
        if draft.rewrites_files():
            _record(known, one, "files only")
            return
        try:
            with laid_over(self.recipe, draft) as (edit, checkpoint):
                if one.case.fault.healthy:
                    own = self.recipe.make_own_twin(one.case.name, checkpoint)
                    if own is not None:
                        edit["targets"] = self.recipe.targets(own)
                yield from self._scored(one, known, edit)
        except UnusableCheckpointError as error:  # whoever loads it, reads it so
            _record(known, one, "refused", said=error.what)

    def _scored(self, one: Drawn, known: Path, edit: dict[str, Any]) -> Requests:
        arms, parts, seconds = self.recipe.arms_of(one.case.name), list[Path](), 0.0
        scores = self.recipe.case_file(one.case.name, ".safetensors")
        for number, prompts in enumerate(self._portions):
            yield from self._warmed(number)
            output = self._desk / f"part-{number}.safetensors"
            said = yield {**edit, "prompts": prompts, "output": str(output)}
            seconds += said["seconds"]
            if "refused" in said or not said["changed"]:
                outcome = "same numbers" if "refused" not in said else "refused"
                if said.get("refused", {}).get("kind") == "another-graph":
                    outcome = "another graph"
                _record(known, one, outcome, said=said.get("refused"))
                return
            parts.append(output)
            _write_joined(parts, scores)
            order = order_of(arms.rounds)[: PORTION * (number + 1)]
            engine = load_scores(scores, arms.tokens.only(order))
            if told(arms, engine).decision != "open":
                break
        _record(known, one, "scored", changed=len(said["changed"]), seconds=round(seconds, 2),
                first_layer=said["first_layer"])  # fmt: skip


def _record(path: Path, one: Drawn, outcome: str, **more: Any) -> None:  # noqa: ANN401 - JSON values
    document = {"case": one.case.name, "outcome": outcome, **more}
    write_whole(path, json.dumps(document).encode())


def _write_joined(parts: list[Path], output: Path) -> None:
    """Puts score files of rounds one after another, what stands beside the scores included."""
    files = [load_file(path) for path in parts]
    arrays = {name: np.concatenate([one[name] for one in files]) for name in files[0]}
    lengths = np.concatenate([np.diff(one["offsets"]) for one in files])
    arrays["offsets"] = np.cumsum([0, *lengths], dtype=np.int64)
    partial = output.with_suffix(".partial")
    save_file(arrays, partial, {"schema": "1", "arm": "engine", "meta": "{}"})
    partial.replace(output)


def audit_cases(recipe: Recipe, until: float) -> None:
    """Audits the recipe's cases, healthy matrices once; goes on where it was."""
    path = recipe.place / f"audits-{_audit_code()}.jsonl"
    known = {json.loads(line)["case"] for line in _lines(path)}
    bench = Bench.open(recipe.export, recipe.lab.model)
    if findings := bench.healthy()[0]:
        raise SystemExit(f"the export is not healthy: {findings[0]}")
    for cases, wanted in zip(recipe.cases(), (FAULTS, CONTROLS), strict=True):
        count = 0
        for one in cases:
            if count >= wanted:
                break
            if one.case.name not in known:
                if time.monotonic() > until:
                    return
                trial = bench.run(one.case)
                with path.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(trial.as_dict()) + "\n")
                print(one.case.name, trial.outcome, flush=True)
            count += _outcomes(path)[one.case.name] != "not applicable"


def _audit_code() -> str:
    return code_digest("configs", "validation").rpartition(":")[2][:12]


def _outcomes(path: Path) -> dict[str, str]:
    return {trial["case"]: trial["outcome"] for trial in map(json.loads, _lines(path))}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def records(recipe: Recipe) -> Iterator[Record]:
    """Yields what is known of the recipe's cases: those whose audits were run."""
    for line in _lines(recipe.place / f"audits-{_audit_code()}.jsonl"):
        document = json.loads(line)
        trial = Trial(**{**document, "told": tuple(document["told"])})
        case = case_known(recipe, trial.case)
        if case is None:
            yield Record(recipe.name, trial)
            continue
        if case["outcome"] in SAME and trial.taxonomy is None:
            said, asked = _as_built(recipe)
            yield Record(
                recipe.name, trial, case["outcome"], said.decision, said.kl, said.tokens,
                asked=asked,
            )  # fmt: skip
            continue
        if case["outcome"] != "scored":
            yield Record(recipe.name, trial, case["outcome"])
            continue
        path = recipe.case_file(trial.case, ".safetensors")
        yield _judged(recipe, trial, path, case["seconds"])


def case_known(recipe: Recipe, case: str) -> dict[str, Any] | None:
    """Returns what came of a case in the executor; None where it was not run."""
    path = recipe.case_file(case, ".json")
    return json.loads(path.read_text()) if path.is_file() else None


@cache
def _as_built(recipe: Recipe) -> tuple[Told, str | None]:
    """Judges the engine that was built, without and with its layers, for all controls alike."""
    engine, _ = engine_of(recipe, recipe.place / "healthy.safetensors")
    layers = _layers(recipe.place / f"healthy{LAYERS}")
    asked = None if layers is None else told(recipe.arms, engine, layers=layers).decision
    return told(recipe.arms, engine), asked


def _judged(recipe: Recipe, trial: Trial, path: Path, seconds: float) -> Record:
    engine, beside = engine_of(recipe, path)
    arms, layers = recipe.arms_of(trial.case), _layers(recipe.case_file(trial.case, LAYERS))
    said = told(arms, engine)
    asked = None if layers is None else told(arms, engine, layers=layers).decision
    return Record(
        recipe.name, trial, "scored", said.decision, said.kl, said.tokens, engine.positions,
        seconds, alarms(_seen(recipe, engine, beside)), asked,
    )  # fmt: skip


def _layers(path: Path) -> LayerScores | None:
    return load_layers(path) if path.is_file() else None


def engine_of(recipe: Recipe, path: Path) -> tuple[Scores, dict[str, Any]]:
    """Reads the scores of the first prompts of the rounds, and what stands beside them."""
    beside = load_file(path)
    order = order_of(recipe.arms.rounds)[: len(beside["offsets"]) - 1]
    return load_scores(path, recipe.arms.tokens.only(order)), beside


def _seen(recipe: Recipe, engine: Scores, beside: dict[str, Any]) -> Seen:
    arms = recipe.arms
    order = order_of(arms.rounds)[: engine.prompts]
    good, _ = engine_of(recipe, recipe.place / "healthy.safetensors")
    return Seen(
        arms.tokens.only(order), arms.source.only(order), engine,
        good.only(range(engine.prompts)), beside,
    )  # fmt: skip


def healthy_runs(recipe: Recipe) -> dict[str, Any]:
    """Judges the healthy engine: as built, executed in other ways, and in other orders."""
    path = recipe.place / "healthy.safetensors"
    if not path.is_file():
        return {}
    arms = recipe.arms
    engine, beside = engine_of(recipe, path)
    place = {prompt: at for at, prompt in enumerate(order_of(arms.rounds))}
    orders = Counter[str]()
    for seed in range(ORDERS):
        other = replace(arms, rounds=shuffled(arms.rounds, seed))
        order = [place[prompt] for prompt in order_of(other.rounds)]
        orders[told(other, engine.only(order)).decision] += 1
    ways = {"as built": told(arms, engine).as_dict()}
    for name in WAYS:
        way = recipe.place / f"way-{name.replace(' ', '-')}.safetensors"
        if way.is_file():
            ways[name] = told(arms, engine_of(recipe, way)[0]).as_dict()
    wrong = [name for name, alarm in alarms(_seen(recipe, engine, beside)).items() if alarm]
    return {"orders": dict(orders), "ways": ways, "peers_that_stop_it": wrong}


def table(lab: Lab) -> dict[str, Any]:
    """Judges all that was done so far."""
    recipes = [lab.recipe(number) for number in range(len(lab.exports()))]
    every = [one for recipe in recipes for one in records(recipe)]
    return document(every, {recipe.name: healthy_runs(recipe) for recipe in recipes})


def main() -> int:
    """Does a piece of it, or all of it that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=(*PARTS, "table", "all"))
    parser.add_argument("recipe", type=int, nargs="?")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--faults", type=int, default=FAULTS)
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    lab, until = Lab.open(), time.monotonic() + asked.seconds
    every = range(len(lab.exports())) if asked.recipe is None else [asked.recipe]
    for part in PARTS if asked.part == "all" else [asked.part]:
        for number in every if part in PARTS else ():
            recipe = lab.recipe(number)
            if part == "audit":
                audit_cases(recipe, until)
                continue
            recipe.prepare()
            if part == "score":
                ways = asked.ways or asked.part == "all"
                Session(recipe, until, asked.faults, ways).run()
    if asked.part == "table":
        found = table(lab)
        print(json.dumps(found, indent=1) if asked.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
