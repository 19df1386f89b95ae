"""An edit in a loaded engine says what an engine built of the edited checkpoint says.

So faults can be measured without compiling anything: `benchmarks/behaviour.py` stands on this.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from enginekeeper.faults.catalogue import named
from enginekeeper.faults.draft import Draft
from enginekeeper.faults.fault import Target
from enginekeeper.faults.injection import Injection, inject
from enginekeeper.validation.twin import write_checkpoint_twin
from registry.files import write_whole
from tests.factories.checkpoints import SOURCE, exported
from tests.factories.engine_bench import Bench

pytestmark = pytest.mark.toolchain

VOCABULARY = 96
PROMPTS = [0, 1, 2]
LAST = Target("last", "mlp.proj")
FAULTS = {
    "scale-gain": Injection(named("scale-gain"), 1.1, LAST),
    "epsilon": Injection(named("epsilon"), 100.0, LAST),
    "rope-base": Injection(named("rope-base"), 0.1, LAST),
    "layers-fewer": Injection(named("layers-fewer"), 1, LAST),
    "table-rows-zero": Injection(named("table-rows-zero"), 16, Target("first")),
}

Said = dict[str, Any]


class Desk:
    """Asks one process for one edit after another."""

    def __init__(self, bench: Bench, checkpoint: Path) -> None:
        self.bench, self.checkpoint = bench, checkpoint
        self.place = bench.folder / "desk"
        self.place.mkdir()
        self.said: dict[str, Said] = {}
        self.requests = self.work()

    def work(self) -> Generator[dict[str, Any], Said, None]:
        yield self.request("built", {})
        targets = {"twin": str(self.bench.folder / "built.safetensors")}
        yield self.request("asked", {"targets": targets})
        for name, injection in FAULTS.items():
            draft = Draft.open(self.checkpoint, SOURCE)
            injection.apply(draft)
            overlay = self.bench.folder / f"{name}-overlay"
            overlay.mkdir()
            draft.overlay(overlay)
            self.said[name] = yield self.request(name, {"overlay": str(overlay)})
            if name == "scale-gain":
                layers = {"overlay": str(overlay), "layers": self.layers()}
                yield self.request("layers", layers)
        self.said["again"] = yield self.request("again", {})
        nothing = self.bench.folder / "nothing-overlay"
        nothing.mkdir()
        draft = Draft.open(self.checkpoint)
        draft.get(0, "transformer.ln_f.weight")
        draft.overlay(nothing)
        self.said["nothing"] = yield self.request("nothing", {"overlay": str(nothing)})
        other = self.bench.folder / "other-overlay"
        other.mkdir()
        draft = Draft.open(self.checkpoint)
        draft.config["hidden_act"] = "gelu"
        draft.overlay(other)
        self.said["other"] = yield self.request("other", {"overlay": str(other)})

    def layers(self) -> dict[str, Any]:
        """What the step `probe_layers` is told besides engine and tokens."""
        twin = self.bench.folder / "checkpoint-twin"
        if not twin.exists():
            write_checkpoint_twin(SOURCE, self.checkpoint, twin)
        nudge = {"relative": 3e-7, "seed": 1}
        return {"twin": str(twin), "nudge": nudge, "prompts": PROMPTS, "longest": 16}

    def request(self, name: str, edit: dict[str, Any]) -> dict[str, Any]:
        output = self.bench.folder / f"{name}.safetensors"
        return {"dropped": [], "prompts": PROMPTS, "output": str(output), **edit}

    def hear(self, line: str) -> None:
        if not line.startswith("ask "):
            return
        asked = int(line.split()[1])
        try:
            request = (
                next(self.requests)
                if asked == 1
                else self.requests.send(json.loads((self.place / f"{asked - 1}.json").read_text()))
            )
        except StopIteration:
            request = {"stop": True}
        write_whole(self.place / "answer.json", json.dumps({"ask": asked, **request}).encode())


def _scored(bench: Bench, name: str) -> dict[str, Any]:
    return dict(load_file(bench.folder / f"{name}.safetensors"))


@pytest.fixture
def desk(bench: Bench, tmp_path: Path) -> Iterator[Desk]:
    checkpoint = exported("w8a16", tmp_path)
    bench.compile(checkpoint)
    desk = Desk(bench, checkpoint)
    logits = str(bench.folder / "logits.safetensors")
    engine = str(bench.folder / "engine")
    job = {
        "engine": engine, "tokens": str(bench.tokens(VOCABULARY)), "targets": {},
        "top_k": VOCABULARY, "batch_size": 3, "desk": str(desk.place), "write_logits": logits,
        "source_logits": logits,
    }  # fmt: skip
    bench.run("score_edits", job, "edits", desk.hear)
    yield desk
    shutil.rmtree(desk.place)


def test_an_edit_in_place_is_an_engine_of_the_edited_checkpoint(desk: Desk) -> None:
    bench = desk.bench
    built = _scored(bench, "built")
    for name, injection in FAULTS.items():
        faulty = bench.folder / f"{name}-checkpoint"
        inject(desk.checkpoint, injection, faulty, SOURCE)
        bench.compile(faulty, f"{name}-engine")
        own = bench.score(
            "score_engine", f"{name}-own", VOCABULARY,
            engine=str(bench.folder / f"{name}-engine"), batch_size=3,
        )  # fmt: skip
        here = _scored(bench, name)
        assert np.array_equal(here["target_logprobs"], own["target_logprobs"]), name
        assert not np.array_equal(here["target_logprobs"], built["target_logprobs"]), name
        assert desk.said[name]["changed"], name
    assert desk.said["scale-gain"]["first_layer"] == 1
    assert desk.said["epsilon"]["first_layer"] == 0


def test_the_layers_of_an_edit_answer_as_those_of_an_engine_of_the_edited_checkpoint(
    desk: Desk,
) -> None:
    bench = desk.bench
    inject(desk.checkpoint, FAULTS["scale-gain"], bench.folder / "faulty", SOURCE)
    bench.compile(bench.folder / "faulty", "faulty-engine")
    job = {
        "engine": str(bench.folder / "faulty-engine"), "tokens": str(bench.tokens(VOCABULARY)),
        "output": str(bench.folder / "own-layers.safetensors"), **desk.layers(),
    }  # fmt: skip
    bench.run("probe_layers", job, "own-layers")

    here, own = _scored(bench, "layers"), _scored(bench, "own-layers")

    assert all(np.array_equal(here[name], own[name]) for name in own)
    shares = (here["apart"] / here["size"]).max(axis=1)
    assert shares.argmax() == 2  # the embedding is first, and the second layer is faulty
    assert shares[1] < 1e-9
    assert shares[2] > 1e-4


def test_edits_are_taken_back_and_what_changes_nothing_is_said(desk: Desk) -> None:
    built, again = _scored(desk.bench, "built"), _scored(desk.bench, "again")
    assert np.array_equal(built["top_logprobs"], again["top_logprobs"])
    assert desk.said["nothing"]["changed"] == []
    assert desk.said["other"]["refused"]["kind"] == "another-graph"
    assert built["logit_cosine"] == pytest.approx(1.0, abs=1e-4)
    assert built["logit_distance"] == pytest.approx(0.0, abs=1e-3)
    assert _scored(desk.bench, "layers-fewer")["logit_cosine"].min() < 0.999


def test_a_request_may_ask_for_other_tokens_than_the_job(desk: Desk) -> None:
    built, asked = _scored(desk.bench, "built"), _scored(desk.bench, "asked")
    assert "at_twin" not in built
    assert np.array_equal(asked["at_twin"], built["top_logprobs"])
