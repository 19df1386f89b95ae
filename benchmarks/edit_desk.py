"""Asks the step `score_edits` for one thing after another, as a generator of requests says."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from behaviour_lab import Recipe

from enginekeeper.faults.draft import Draft
from enginekeeper.validation.checkpoint import Checkpoint
from registry.files import write_whole

Said = dict[str, Any]
Requests = Generator[dict[str, Any], Said, None]


def desk_of(recipe: Recipe, name: str) -> Path:
    """Returns where a run of the step and whoever asks it leave their papers."""
    return recipe.place / f"desk-{name}"


def serve(recipe: Recipe, name: str, requests: Requests) -> None:
    """Runs the step on the recipe's engine until there are no more requests."""
    desk = desk_of(recipe, name)
    shutil.rmtree(desk, ignore_errors=True)
    desk.mkdir(parents=True)

    def hear(line: str) -> None:
        if not line.startswith("ask "):
            return
        asked = int(line.split()[1])
        try:
            if asked == 1:
                request = next(requests)
            else:
                request = requests.send(json.loads((desk / f"{asked - 1}.json").read_text()))
        except StopIteration:
            request = {"stop": True}
        write_whole(desk / "answer.json", json.dumps({"ask": asked, **request}).encode())

    recipe.step("score_edits", name, {**recipe.job(), "desk": str(desk)}, hear)


@contextmanager
def laid_over(recipe: Recipe, draft: Draft) -> Iterator[tuple[dict[str, Any], Checkpoint]]:
    """Yields what a request says of an edit, and the edited checkpoint, while its files are there.

    Raises UnusableCheckpointError for what whoever loads it would read so.
    """
    with tempfile.TemporaryDirectory(dir=recipe.place) as folder:
        checkpoint = draft.overlay(Path(folder))
        dropped = sorted(set(draft.base.ranks[0]) - set(draft.ranks[0]))
        yield {"overlay": folder, "dropped": dropped}, checkpoint
