"""The runner of TensorRT-LLM's LLM API against a double of it: the scores of an engine's twin.

The double answers from the executor of the checkpoint, so what a runner loses, shifts or invents
shows as a difference from that executor's own scores. Nothing here has run on a GPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from enginekeeper.building.engine_runner import EngineRunner, Way
from enginekeeper.orchestration.asking import probe_job, served_job, triton_job
from enginekeeper.toolchains.errors import StepCrashedError, StepRefusedError
from enginekeeper.validation.probes import load_probes
from enginekeeper.validation.twin import write_checkpoint_twin
from tests.factories.checkpoints import SOURCE, exported
from tests.factories.engine_bench import Bench

pytestmark = pytest.mark.toolchain

VOCABULARY = 96
GREEDY = {"prefix": 8, "tokens": 12}
LIMITS = {
    "max_batch_size": 4, "max_input_len": 128, "max_seq_len": 160, "max_num_tokens": 512,
    "max_beam_width": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """An engine of the double and the model that stands in for it."""

    bench: Bench
    engine: Path
    twin: Path
    version: str = "1.2.1"

    def score(self, way: Way, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - the job's values
        """Scores the engine through the runner and returns the arrays."""
        runner = EngineRunner(self.version)
        output = self.bench.folder / f"{way}.safetensors"
        asked = {**self._job(output), **runner.job(self.engine, way), **changes}
        self.bench.run("run_with_double", self._wrapped(asked), way)
        return dict(load_file(output))

    def score_twin(self) -> dict[str, Any]:
        """Scores what stands in for the engine, by the step that does that for twins."""
        output = self.bench.folder / "twin.safetensors"
        self.bench.run("score_twin", {**self._job(output), "twin": str(self.twin)}, "twin")
        return dict(load_file(output))

    def _job(self, output: Path) -> dict[str, Any]:
        tokens = str(self.bench.tokens(VOCABULARY))
        return {
            "tokens": tokens, "targets": {}, "output": str(output), "top_k": 20, "greedy": GREEDY,
        }  # fmt: skip

    def serve(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - the job's values
        """Scores the engine as it is served; returns the arrays."""
        tokenizer = self.bench.folder / "tokenizer"
        tokenizer.mkdir(exist_ok=True)
        (tokenizer / "tokenizer.json").touch()
        output = self.bench.folder / "served.safetensors"
        asked = {**self._job(output), **served_job(self.version, self.engine, tokenizer), **changes}
        self.bench.run("run_with_double", self._wrapped(asked, "score_served"), "served")
        return dict(load_file(output))

    def by_triton(self, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - the job's values
        """Scores the engine as Triton serves it; returns the arrays."""
        output = self.bench.folder / "triton.safetensors"
        asked = {**self._job(output), **triton_job(self.version, self.engine), **changes}
        self.bench.run("run_with_double", self._wrapped(asked, "score_triton"), "triton")
        return dict(load_file(output))

    def _wrapped(self, job: Mapping[str, Any], step: str = "score_trtllm") -> dict[str, Any]:
        double = {"version": self.version, "models": {str(self.engine): str(self.twin)}}
        return {"step": step, "job": dict(job), "double": double}


def _lacks(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    with safe_open(path, framework="np") as handle:
        return json.loads(handle.metadata()["meta"])["lacks"]


@pytest.fixture
def site(bench: Bench, tmp_path: Path) -> Site:
    checkpoint, engine = exported("w8a16", tmp_path), tmp_path / "trt-engine"
    write_checkpoint_twin(SOURCE, checkpoint, tmp_path / "twin")
    engine.mkdir()
    _write_engine(engine, checkpoint, gather_context_logits=True)
    return Site(bench, engine, tmp_path / "twin")


def _write_engine(engine: Path, checkpoint: Path, **build: Any) -> None:  # noqa: ANN401
    config = json.loads((checkpoint / "config.json").read_text())
    limits = {**LIMITS, **build}
    document = {"version": "1.2.1", "pretrained_config": config, "build_config": limits}
    (engine / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize("version", ["0.18.2", "1.2.1"])
def test_both_ways_give_the_scores_of_what_stands_in_for_the_engine(
    version: str, site: Site
) -> None:
    site = replace(site, version=version)
    twin = site.score_twin()

    ways: tuple[Way, ...] = ("generation", "context")
    for way in ways:
        engine = site.score(way)

        assert engine.keys() == twin.keys()
        assert np.array_equal(engine["greedy_ids"], twin["greedy_ids"])
        for name in ("top_logprobs", "target_logprobs", "greedy_logprobs"):
            assert np.abs(engine[name] - twin[name]).max() < 1e-4, (way, name)
        assert engine["finite"].all()


def test_padding_of_the_output_matrix_takes_no_share_of_the_probability(site: Site) -> None:
    twin = site.score_twin()
    config = json.loads((site.engine / "config.json").read_text())
    config["pretrained_config"]["vocab_size"] = VOCABULARY + 32
    (site.engine / "config.json").write_text(json.dumps(config))

    engine = site.score("generation")

    assert np.abs(engine["target_logprobs"] - twin["target_logprobs"]).max() < 1e-4


def test_prompts_are_scored_in_rounds_as_any_engine_s_are(site: Site) -> None:
    output = site.bench.folder / "generation.safetensors"
    answer = output.with_name(f"{output.name}.answer")

    def hear(line: str) -> None:
        if line.startswith("ask "):
            scored = int(line.split()[1])
            answer.write_text(f"{scored} {'stop' if scored == 2 else 'go'}")

    job = {**site._job(output), **EngineRunner("1.2.1").job(site.engine, "generation")}
    site.bench.run(
        "run_with_double", site._wrapped({**job, "rounds": [[2, 1], [0]]}), "rounds", hear
    )

    arrays = load_file(output)
    assert arrays["offsets"].tolist() == [0, 8, 30]
    assert len(arrays["greedy_ids"]) == 2


def test_context_logits_that_a_reused_cache_cuts_short_are_refused(site: Site) -> None:
    api = EngineRunner("1.2.1").job(site.engine, "context", reuse=True)["api"]
    tokens = json.loads(Path(site.bench.tokens(VOCABULARY)).read_text())
    tokens["prompts"] = [tokens["prompts"][0], {**tokens["prompts"][0], "id": "again"}]
    twice = site.bench.folder / "twice.json"
    twice.write_text(json.dumps(tokens))

    with pytest.raises(StepRefusedError) as caught:
        site.score("context", api=api, tokens=str(twice))

    assert (caught.value.kind, caught.value.actual) == ("unexpected-output", "8")


def test_a_toolchain_of_another_release_is_refused(site: Site) -> None:
    api = {**EngineRunner("1.2.1").job(site.engine, "generation")["api"], "version": "1.2.0"}

    with pytest.raises(StepRefusedError) as caught:
        site.score("generation", api=api)

    assert (caught.value.kind, caught.value.expected) == ("wrong-release", "1.2.0")


def test_what_the_runtime_refuses_ends_the_step_with_its_words_in_the_log(site: Site) -> None:
    shutil.copyfile(site.engine / "config.json", site.engine / "kept.json")
    _write_engine(site.engine, exported("w8a16", site.bench.folder / "again"), max_seq_len=20)

    with pytest.raises(StepCrashedError) as caught:
        site.score("generation")

    log = Path(str(caught.value.place.log)).read_text()
    assert "should not exceed max_seq_len (20)" in log
    assert "SIMULATED" in log


def test_a_served_engine_with_context_logits_gives_every_number(site: Site) -> None:
    twin = site.score_twin()

    served = site.serve()

    assert np.array_equal(served["greedy_ids"], twin["greedy_ids"])
    for name in ("top_logprobs", "target_logprobs", "greedy_logprobs"):
        assert np.abs(served[name] - twin[name]).max() < 1e-4, name
    assert _lacks(site.bench.folder / "served.safetensors") == []


def test_a_served_engine_without_them_names_what_it_chose_and_what_it_lacks(site: Site) -> None:
    twin = site.score_twin()
    _write_engine(site.engine, exported("w8a16", site.bench.folder / "again"))

    served = site.serve()

    assert np.array_equal(served["top_ids"][:, 0], twin["top_ids"][:, 0])
    assert np.abs(served["top_logprobs"][:, 0] - twin["top_logprobs"][:, 0]).max() < 1e-4
    assert np.abs(served["greedy_logprobs"] - twin["greedy_logprobs"]).max() < 1e-4
    assert _lacks(site.bench.folder / "served.safetensors") == ["target_logprobs"]


def test_a_release_whose_server_has_no_log_probabilities_is_not_asked_for_any(site: Site) -> None:
    site = replace(site, version="0.21.0")
    _write_engine(site.engine, exported("w8a16", site.bench.folder / "again"))

    served = site.serve()

    assert served["greedy_ids"].min() >= 0
    assert _lacks(site.bench.folder / "served.safetensors") == [
        "target_logprobs", "top_logprobs", "greedy_logprobs",
    ]  # fmt: skip
    with pytest.raises(StepRefusedError) as caught:
        site.serve(logprobs=True)
    assert caught.value.kind == "request-refused"
    assert "logprobs is not supported" in str(caught.value.actual)


def test_an_engine_with_context_logits_says_by_triton_what_its_stand_in_does(site: Site) -> None:
    twin = site.score_twin()

    asked = site.by_triton()

    assert np.array_equal(asked["greedy_ids"], twin["greedy_ids"])
    for name in ("top_logprobs", "target_logprobs", "greedy_logprobs"):
        assert np.abs(asked[name] - twin[name]).max() < 1e-4, name
    assert _lacks(site.bench.folder / "triton.safetensors") == []


def test_triton_names_what_an_engine_without_them_chose_and_what_it_lacks(site: Site) -> None:
    twin = site.score_twin()
    _write_engine(site.engine, exported("w8a16", site.bench.folder / "again"))

    asked = site.by_triton()

    assert np.array_equal(asked["top_ids"][:, 0], twin["top_ids"][:, 0])
    assert np.abs(asked["top_logprobs"][:, 0] - twin["top_logprobs"][:, 0]).max() < 1e-4
    assert np.abs(asked["greedy_logprobs"] - twin["greedy_logprobs"]).max() < 1e-4
    assert _lacks(site.bench.folder / "triton.safetensors") == ["target_logprobs"]


def test_triton_refuses_what_its_repository_does_not_declare(site: Site) -> None:
    told = triton_job(site.version, site.engine)["triton"]
    ((path, text), *rest) = told["repository"].items()
    assert "runtime_top_k" in text
    changed = {path: text.replace('"runtime_top_k"', '"top_k"'), **dict(rest)}

    with pytest.raises(StepRefusedError) as caught:
        site.by_triton(triton={**told, "repository": changed})

    assert caught.value.kind == "request-refused"
    assert "unexpected inference input 'runtime_top_k'" in str(caught.value.actual)


def test_an_engine_is_asked_in_other_ways_and_told_to_stop(site: Site) -> None:
    output = site.bench.folder / "probes.safetensors"
    job = {
        **probe_job(site.version, site.engine), "tokens": str(site.bench.tokens(VOCABULARY)),
        "prompts": [0, 1, 2], "longest": 8, "top_k": 20, "output": str(output),
    }  # fmt: skip

    site.bench.run("run_with_double", site._wrapped(job, "probe_trtllm"), "probes")

    probes = load_probes(output)
    assert probes.offers == {"batch", "choices", "decode", "logits", "reuse", "text"}
    assert probes.ladders == {
        "decode": ("decode-1",),
        "batch": ("batch-2", "batch-3", "batch-4", "batch-4-identical"),
        "reuse": ("reuse-1",),
    }
    assert len(probes.offsets) == 5  # three prompts, and one long context
    for rung in probes.rungs:
        assert probes.divergence(rung).max() < 1e-6, rung
    assert probes.stop is not None
    assert (probes.stop.asked, probes.stop.wrong) == (4, ())
    assert probes.chosen is not None
    assert (probes.chosen.asked, probes.chosen.wrong) == (4, ())
