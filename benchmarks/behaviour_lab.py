"""What the bench of behaviour works on: recipes, their engines and what these are compared with."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from detection import healthy_exports
from dictionaries import Sought, dictionary_at

from enginekeeper.faults.behaviour import Arms
from enginekeeper.faults.campaign import label
from enginekeeper.faults.grid import bundled_grid, load_grid
from enginekeeper.faults.sample import Drawn, drawn
from enginekeeper.own_code import code_digest
from enginekeeper.settings import Settings
from enginekeeper.specs.acceptance import Acceptance
from enginekeeper.toolchains.catalogue import find_toolchain, lock_of
from enginekeeper.toolchains.installation import installation_of
from enginekeeper.toolchains.runner import StepRun, run_step
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.pieces import read_pieces
from enginekeeper.validation.policy import AcceptancePolicy
from enginekeeper.validation.rounds import rounds_of
from enginekeeper.validation.scores import load_scores
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tokens import load_tokens
from enginekeeper.validation.twin import recipe_twin_of, write_recipe_twin
from registry.digests import digest_file
from registry.files import write_whole

SEED = "behaviour-1"

LIMITS = {"max_batch_size": 8, "max_input_len": 512, "max_seq_len": 1024, "max_num_tokens": 8192}
NUDGE = {"relative": 3e-7, "seed": 1234}
"""As `enginekeeper.orchestration.judging` does."""

TOP_K = 20
DICTIONARY = "dictionary.safetensors"
TWIN, NUDGED, LAYERS = ".twin.safetensors", ".nudged.safetensors", ".layers.safetensors"
"""What the files of a case's own twin, and of what its layers answered, end with."""

PORTION = 4
"""Prompts that are scored before the rule is asked: a gross fault is decided in three to five."""


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
        if scores.exists() and (nudged.exists() or not self._rounds_activations()):
            return
        with self.folder() as folder:
            twin = folder / "twin"
            write_recipe_twin(self.lab.model, self.export, twin)
            self._score(twin, scores, nudged)

    def _score(self, twin: Path, scores: Path, nudged: Path) -> None:
        """Scores a twin, and once more with noise if its recipe rounds activations."""
        job = {"twin": str(twin), "tokens": str(self.lab.tokens), "top_k": TOP_K,
               "targets": {"source": str(self.lab.source_scores)}, "batch_size": 4,
               "greedy": {"prefix": 2, "tokens": 1}, "output": str(scores)}  # fmt: skip
        if not scores.exists():
            self.step("score_twin", "twin", job)
        if self._rounds_activations() and not nudged.exists():
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

    def arms_of(self, case: str) -> Arms:
        """Returns what an engine of a case is compared with: its own twin, if it has one.

        Without a dictionary then: it is of the healthy export's twin and its best tokens.
        """
        scores, nudged = self.case_file(case, TWIN), self.case_file(case, NUDGED)
        if not scores.is_file():
            return self.arms
        twin = load_scores(scores, self.arms.tokens)
        again = load_scores(nudged, self.arms.tokens) if nudged.is_file() else None
        return replace(self.arms, twin=twin, nudged=again, dictionary=None)

    def make_own_twin(self, case: str, checkpoint: Checkpoint) -> Path | None:
        """Scores the twin of a case's own checkpoint, unless it is that of the healthy export.

        As `ek build` does: what was calibrated or rounded otherwise is another recipe twin.
        """
        scores = self.case_file(case, TWIN)
        with self.folder() as folder:
            twin = folder / "twin"
            recipe_twin_of(SourceModel.open(self.lab.model), checkpoint, twin)
            if _named(twin) == self._healthy_twin:
                return None
            self._score(twin, scores, self.case_file(case, NUDGED))
        return scores

    @cached_property
    def _healthy_twin(self) -> dict[str, str]:
        with self.folder() as folder:
            twin = folder / "twin"
            write_recipe_twin(self.lab.model, self.export, twin)
            return _named(twin)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yields a directory that is removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            yield Path(folder)

    def cases(self) -> tuple[list[Drawn], list[Drawn]]:
        """Returns the recipe's faults and controls in the order they are run."""
        return drawn(load_grid(bundled_grid()), [self.name], SEED)

    def case_file(self, name: str, suffix: str) -> Path:
        """Returns where what is known of a case is."""
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return self.place / "cases" / f"{digest}{suffix}"

    def job(self) -> dict[str, Any]:
        """Returns the job of the step that scores edits."""
        logits = self.lab.recipe(0).place / "logits.safetensors"
        writes = self.number == 0 and not logits.exists()
        return {
            "engine": str(self.place / "engine"), "tokens": str(self.lab.tokens), "threads": 1,
            "targets": self.targets(self.place / "twin.safetensors"),
            "top_k": TOP_K, "batch_size": PORTION,
            "source_logits": str(logits), **({"write_logits": str(logits)} if writes else {}),
        }  # fmt: skip

    def targets(self, twin: Path) -> dict[str, str]:
        """Returns whose best tokens an engine is asked for."""
        return {"source": str(self.lab.source_scores), "twin": str(twin)}


def _named(twin: Path) -> dict[str, str]:
    """Returns the digests of a twin's files."""
    return {path.name: str(digest_file(path)) for path in sorted(twin.iterdir())}
