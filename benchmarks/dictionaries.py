"""Fault dictionaries for benches, made as `ek build --locate` makes them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.orchestration.judging import DICTIONARY_POSITIONS, DICTIONARY_PROMPTS
from enginekeeper.validation.dictionary import Dictionary, codes_of, load_dictionary
from enginekeeper.validation.rounds import order_of, rounds_of
from enginekeeper.validation.tokens import load_tokens
from enginekeeper.validation.twin import write_recipe_twin

RunStep = Callable[[str, str, dict[str, Any]], None]
"""Runs a step under a name with a job."""


@dataclass(frozen=True)
class Sought:
    """Of what a dictionary is."""

    model: Path
    export: Path
    tokens: Path
    twin_scores: Path

    def make(self, path: Path, run: RunStep) -> None:
        """Makes the dictionary, unless it is there: minutes for a small model."""
        if path.exists():
            return
        order = order_of(rounds_of(load_tokens(self.tokens)))
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            twin = Path(folder) / "twin"
            write_recipe_twin(self.model, self.export, twin)
            job = {
                "twin": str(twin), "tokens": str(self.tokens), "output": str(path),
                "targets": {"twin": str(self.twin_scores)},
                "prompts": list(order[:DICTIONARY_PROMPTS]), "positions": DICTIONARY_POSITIONS,
                "codes": codes_of(self.export),
            }  # fmt: skip
            run("sensitivities", "sensitivities", job)


def dictionary_at(path: Path) -> Dictionary | None:
    """Reads a dictionary, if there is one."""
    return load_dictionary(path) if path.is_file() else None
