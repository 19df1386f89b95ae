"""Behaviour and audits on the same faults: a part of the grid, drawn by a seed beforehand.

    python benchmarks/behaviour.py prepare [N]      # per recipe: engine, twin, floor, dictionary
    python benchmarks/behaviour.py score [N] [--seconds S]  # the N-th recipe: into the executor
    python benchmarks/behaviour.py audit [N] [--seconds S]  # the N-th recipe: by files alone
    python benchmarks/behaviour.py table [--json]           # what was done so far
    python benchmarks/behaviour.py all                      # everything (make bench-faults)

Takes exports and the reference of `make demo-all` from the cache, and writes below `faults/` in it.
Every command goes on where it was; S seconds are a piece of it. Cases are those of the newest
grid, `FAULTS` and `CONTROLS` of each recipe in the order of `enginekeeper.faults.sample` with SEED.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detection import healthy_exports
from dictionaries import Sought, dictionary_at
from safetensors.numpy import load_file, save_file

from enginekeeper.faults.behaviour import Arms, told
from enginekeeper.faults.campaign import label
from enginekeeper.faults.comparison import ORDERS, Record, document, render, shuffled
from enginekeeper.faults.draft import Draft, InapplicableError
from enginekeeper.faults.grid import bundled_grid, load_grid
from enginekeeper.faults.peers import Seen, alarms
from enginekeeper.faults.sample import Drawn, drawn
from enginekeeper.faults.trial import Bench, Trial
from enginekeeper.own_code import code_digest
from enginekeeper.settings import Settings
from enginekeeper.specs.acceptance import Acceptance
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of
from enginekeeper.toolchains.runner import StepRun, run_step
from enginekeeper.validation.checkpoint import Checkpoint, UnusableCheckpointError
from enginekeeper.validation.pieces import read_pieces
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.rounds import order_of, rounds_of
from enginekeeper.validation.scores import Scores, load_scores
from enginekeeper.validation.tokens import load_tokens
from enginekeeper.validation.twin import write_recipe_twin
from registry.files import write_whole

SEED = "behaviour-1"
FAULTS, CONTROLS = 30, 40
"""Of each recipe; behaviour takes as many from the beginning as were run."""

WAYS: dict[str, dict[str, int]] = {
    "batch 1": {"batch_size": 1},
    "batch 8": {"batch_size": 8},
    "chunks of 16": {"chunk_tokens": 16},
    "chunks of 64": {"chunk_tokens": 64},
}
"""How the healthy engine is executed otherwise; it is scored in batches of `PORTION`."""
LIMITS = {"max_batch_size": 8, "max_input_len": 512, "max_seq_len": 1024, "max_num_tokens": 8192}
NUDGE = {"relative": 3e-7, "seed": 1234}
"""As `enginekeeper.orchestration.judging` does."""

TOP_K = 20
DICTIONARY = "dictionary.safetensors"

PORTION = 4
"""Prompts that are scored before the rule is asked: a gross fault is decided in three to five."""

PARTS = ("prepare", "audit", "score")


@dataclass(frozen=True)
class Lab:
    """What all recipes share."""

    cache: Path
    model: Path
    tokens: Path
    source_scores: Path

    @classmethod
    def open(cls) -> Lab:
        """Finds model, tokens and the newest reference of them in the cache."""
        cache = Settings.from_environment().cache
        work = cache / "work"
        model = min((cache / "models" / "packaged").glob("*/model"))
        tokens = max(work.glob("tokens/*/tokens.json"), key=lambda path: path.stat().st_mtime)
        references = work.glob("reference/*/reference/scores.safetensors")
        newest = max(references, key=lambda path: path.stat().st_mtime)
        return cls(cache, model, tokens, newest)

    @property
    def place(self) -> Path:
        """Where all of it goes; another executor or another way to edit is another place."""
        made_by = code_digest("steps", "faults/draft.py", "faults/sample.py", "data/faults")
        return self.cache / "faults" / f"behaviour-{made_by.rpartition(':')[2][:12]}"

    @cached_property
    def python(self) -> Path:
        """The interpreter of the embedded builder's toolchain."""
        settings, toolchain = Settings.from_environment(), find_toolchain("inductor")
        return installation_of(toolchain, lock_of(toolchain, settings), settings).python

    def exports(self) -> list[Path]:
        """Returns a healthy export of each recipe, unquantized first; looked for once."""
        known = self.place / "exports.json"
        if not known.is_file():
            found = healthy_exports(self.cache, self.model)
            paths = sorted(found, key=lambda name: (name != "unquantized", name))
            self.place.mkdir(parents=True, exist_ok=True)
            write_whole(known, json.dumps([str(found[name]) for name in paths]).encode())
        return [Path(path) for path in json.loads(known.read_text())]

    def recipe(self, number: int) -> Recipe:
        """Returns the N-th recipe."""
        export = self.exports()[number]
        name = label(Checkpoint.open(export))
        slug = "".join(c if c.isalnum() else "-" for c in name.lower())
        return Recipe(self, name, export, self.place / slug, number)


@dataclass(frozen=True)
class Recipe:
    """One export, its engine and the arms it is compared with."""

    lab: Lab
    name: str
    export: Path
    place: Path
    number: int

    def step(self, step: str, name: str, job: dict[str, Any], hear: Any = None) -> None:  # noqa: ANN401
        """Runs a step of the embedded builder."""
        run = StepRun("inductor", step, job, self.place / f"{name}.run", 4 * 3600)
        run_step(run, python=self.lab.python, on_line=hear)

    def prepare(self) -> None:
        """Makes engine, twin scores, floor and fault dictionary, unless they are there."""
        self.place.mkdir(parents=True, exist_ok=True)
        if not (self.place / "engine").exists():
            job = {"checkpoint": str(self.export), "output": str(self.place / "engine"),
                   "graphs": str(self.lab.place / "graphs"), "limits": LIMITS}  # fmt: skip
            self.step("compile_engine", "compile", job)
        self._score_twin()
        self.locate(self.place / DICTIONARY, self.place)

    def locate(self, path: Path, logs: Path) -> None:
        """Makes the recipe's fault dictionary, unless it is there."""
        scores = self.place / "twin.safetensors"
        sought = Sought(self.lab.model, self.export, self.lab.tokens, scores)
        sought.make(path, replace(self, place=logs).step)

    def _score_twin(self) -> None:
        scores, nudged = self.place / "twin.safetensors", self.place / "nudged.safetensors"
        rounds_activations = self._rounds_activations()
        if scores.exists() and (nudged.exists() or not rounds_activations):
            return
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            twin = Path(folder) / "twin"
            write_recipe_twin(self.lab.model, self.export, twin)
            job = {"twin": str(twin), "tokens": str(self.lab.tokens), "top_k": TOP_K,
                   "targets": {"source": str(self.lab.source_scores)}, "batch_size": 4,
                   "greedy": {"prefix": 2, "tokens": 1}, "output": str(scores)}  # fmt: skip
            if not scores.exists():
                self.step("score_twin", "twin", job)
            if rounds_activations:
                again = {"targets": {"twin": str(scores)}, "nudge": NUDGE, "output": str(nudged)}
                self.step("score_twin", "nudged", {**job, **again})

    def _rounds_activations(self) -> bool:
        return (Checkpoint.open(self.export).quantization.algorithm or "") not in (
            "", "W8A16", "W4A16_AWQ",
        )  # fmt: skip

    @cached_property
    def arms(self) -> Arms:
        """Reads what engines of the recipe are compared with."""
        tokens, nudged = load_tokens(self.lab.tokens), self.place / "nudged.safetensors"
        return Arms(
            tokens,
            load_scores(self.lab.source_scores, tokens),
            load_scores(self.place / "twin.safetensors", tokens),
            load_scores(nudged, tokens) if nudged.is_file() else None,
            AcceptancePolicy(**asdict(Acceptance())),
            rounds_of(tokens),
            dictionary_at(self.place / DICTIONARY),
            read_pieces(self.lab.model),
        )

    def cases(self) -> tuple[list[Drawn], list[Drawn]]:
        """Returns the recipe's faults and controls in the order they are run."""
        return drawn(load_grid(bundled_grid()), [self.name], SEED)

    def case_file(self, name: str, suffix: str) -> Path:
        """Returns where what is known of a case is."""
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return self.place / "cases" / f"{digest}{suffix}"

    def job(self) -> dict[str, Any]:
        """Returns the job of the step that scores edits."""
        first, twin = self.lab.recipe(0), self.place / "twin.safetensors"
        logits = first.place / "logits.safetensors"
        writes = self.number == 0 and not logits.exists()
        return {
            "engine": str(self.place / "engine"), "tokens": str(self.lab.tokens), "threads": 1,
            "targets": {"source": str(self.lab.source_scores), "twin": str(twin)},
            "top_k": TOP_K, "batch_size": PORTION, "desk": str(self.place / "desk"),
            "source_logits": str(logits), **({"write_logits": str(logits)} if writes else {}),
        }  # fmt: skip


Said = dict[str, Any]
Requests = Generator[dict[str, Any], Said, None]


@dataclass
class Session:
    """One run of the step that scores edits, and what is asked of it."""

    recipe: Recipe
    until: float
    faults: int
    ways: bool

    def run(self) -> None:
        """Scores cases until there are no more, or time is up."""
        desk = self.recipe.place / "desk"
        shutil.rmtree(desk, ignore_errors=True)
        desk.mkdir(parents=True)
        (self.recipe.place / "cases").mkdir(exist_ok=True)
        self._desk, self._requests, self._warm = desk, self._work(), set[int]()
        order = order_of(self.recipe.arms.rounds)
        portions = range(0, len(order), PORTION)
        self._portions = [list(order[first : first + PORTION]) for first in portions]
        self.recipe.step("score_edits", "score", self.recipe.job(), self._hear)

    def _hear(self, line: str) -> None:
        if not line.startswith("ask "):
            return
        asked = int(line.split()[1])
        try:
            if asked == 1:
                request = next(self._requests)
            else:
                said = json.loads((self._desk / f"{asked - 1}.json").read_text())
                request = self._requests.send(said)
        except StopIteration:
            request = {"stop": True}
        write_whole(self._desk / "answer.json", json.dumps({"ask": asked, **request}).encode())

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
        with tempfile.TemporaryDirectory(dir=self.recipe.place) as folder:
            try:
                draft.overlay(Path(folder))
            except UnusableCheckpointError as error:  # whoever loads it, reads it so
                _record(known, one, "refused", said=error.what)
                return
            dropped = sorted(set(draft.base.ranks[0]) - set(draft.ranks[0]))
            edit = {"overlay": folder, "dropped": dropped}
            yield from self._scored(one, known, edit)

    def _scored(self, one: Drawn, known: Path, edit: dict[str, Any]) -> Requests:
        arms, parts, seconds = self.recipe.arms, list[Path](), 0.0
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
        known = recipe.case_file(trial.case, ".json")
        if not known.is_file():
            yield Record(recipe.name, trial)
            continue
        case = json.loads(known.read_text())
        if case["outcome"] != "scored":
            yield Record(recipe.name, trial, case["outcome"])
            continue
        path = recipe.case_file(trial.case, ".safetensors")
        yield _judged(recipe, trial, path, case["seconds"])


def _judged(recipe: Recipe, trial: Trial, path: Path, seconds: float) -> Record:
    engine, beside = _engine(recipe, path)
    said = told(recipe.arms, engine)
    return Record(
        recipe.name, trial, "scored", said.decision, said.kl, said.tokens, engine.positions,
        seconds, alarms(_seen(recipe, engine, beside)),
    )  # fmt: skip


def _engine(recipe: Recipe, path: Path) -> tuple[Scores, dict[str, Any]]:
    """Reads the scores of the first prompts of the rounds, and what stands beside them."""
    beside = load_file(path)
    order = order_of(recipe.arms.rounds)[: len(beside["offsets"]) - 1]
    return load_scores(path, recipe.arms.tokens.only(order)), beside


def _seen(recipe: Recipe, engine: Scores, beside: dict[str, Any]) -> Seen:
    arms = recipe.arms
    order = order_of(arms.rounds)[: engine.prompts]
    good, _ = _engine(recipe, recipe.place / "healthy.safetensors")
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
    engine, beside = _engine(recipe, path)
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
            ways[name] = told(arms, _engine(recipe, way)[0]).as_dict()
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
    if asked.part in ("table", "all"):
        found = table(lab)
        print(json.dumps(found, indent=1) if asked.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
