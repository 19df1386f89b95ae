"""What holds for every engine: reuse, limits, chunks, batches, and nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from enginekeeper.toolchains.errors import StepRefusedError
from enginekeeper.toolchains.runner import STEPS
from enginekeeper.validation.checks import Limit
from enginekeeper.validation.probes import load_probes, probe_checks
from tests.factories.checkpoints import edit_tensor
from tests.factories.engine_bench import LIMITS, Bench
from tests.factories.tiny_decoders import FAMILIES, VOCABULARY, write_decoder

pytestmark = pytest.mark.toolchain


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_decoder(FAMILIES["llama"], tmp_path / "llama")[1]


@pytest.fixture
def engine(bench: Bench, checkpoint: Path) -> Path:
    bench.compile(checkpoint)
    return bench.folder / "engine"


def _scores(
    bench: Bench,
    engine: Path,
    name: str,
    on_line: Callable[[str], None] | None = None,
    **changes: Any,  # noqa: ANN401
) -> dict[str, Any]:
    return bench.score("score_engine", name, VOCABULARY, on_line, engine=str(engine), **changes)


def _refusal(act: Any) -> StepRefusedError:  # noqa: ANN401 - any call
    with pytest.raises(StepRefusedError) as refused:
        act()
    return refused.value


def test_a_second_engine_of_the_same_shape_compiles_nothing(
    bench: Bench, engine: Path, checkpoint: Path
) -> None:
    again = bench.compile(checkpoint, "again")

    assert all(graph["reused"] for graph in again.outputs["graphs"])
    assert (engine / "engine.json").read_bytes() == (
        bench.folder / "again" / "engine.json"
    ).read_bytes()


def test_a_cached_graph_whose_bytes_changed_is_compiled_again(
    bench: Bench, engine: Path, checkpoint: Path
) -> None:
    head = json.loads((engine / "engine.json").read_text())["head"]
    cached = bench.graphs / head / "head.pt2"
    cached.write_bytes(cached.read_bytes()[:-100])

    again = bench.compile(checkpoint, "again")

    recompiled = [graph["entry"] for graph in again.outputs["graphs"] if not graph["reused"]]
    assert recompiled == ["head"]


def test_prefill_chunks_and_decode_say_the_same(bench: Bench, engine: Path) -> None:
    whole = _scores(bench, engine, "whole")
    for chunk in (1, 7):
        parts = _scores(bench, engine, f"chunk{chunk}", chunk_tokens=chunk)
        assert np.allclose(parts["target_logprobs"], whole["target_logprobs"], atol=1e-4)
        assert np.array_equal(parts["greedy_ids"], whole["greedy_ids"])


def test_prompts_of_different_lengths_share_a_batch_without_touching(
    bench: Bench, engine: Path
) -> None:
    alone = _scores(bench, engine, "alone", batch_size=1)
    together = _scores(bench, engine, "together", batch_size=3)

    assert np.allclose(alone["target_logprobs"], together["target_logprobs"], atol=1e-4)
    assert np.array_equal(alone["offsets"], together["offsets"])


def test_what_is_no_number_is_marked_in_prefill_and_decode(bench: Bench, checkpoint: Path) -> None:
    broken = bench.folder / "broken"
    shutil.copytree(checkpoint, broken)
    edit_tensor(broken, "transformer.ln_f.weight", lambda weight: weight * np.nan)
    bench.compile(broken, "of-nan")

    scores = _scores(bench, bench.folder / "of-nan", "nan")

    assert not scores["finite"].any()
    assert np.isnan(scores["greedy_logprobs"][scores["greedy_ids"] >= 0]).all()


@pytest.mark.parametrize("last", [2, 3])
def test_a_run_in_rounds_says_of_each_prompt_what_a_whole_run_says(
    bench: Bench, engine: Path, last: int
) -> None:
    rounds, output = [[2, 0], [1]], bench.folder / "rounds.safetensors"
    parts: list[list[int]] = []

    def answer(line: str) -> None:
        if line.startswith("ask "):
            asked = int(line.removeprefix("ask "))
            part = load_file(output.with_name(output.name + ".part"))
            parts.append(np.diff(part["offsets"]).tolist())
            word = "stop" if asked == last else "go"
            output.with_name(output.name + ".answer").write_text(f"{asked} {word}")

    whole = _scores(bench, engine, "whole")
    some = _scores(bench, engine, "rounds", answer, rounds=rounds)

    lengths = np.diff(whole["offsets"])
    assert parts == [[lengths[2]], [lengths[2], lengths[0]], [lengths[1]]][:last]
    starts = whole["offsets"]
    rows = [row for one in (2, 0, 1)[:last] for row in range(starts[one], starts[one + 1])]
    for name in ("top_ids", "top_logprobs", "target_logprobs", "finite"):
        np.testing.assert_array_equal(some[name], whole[name][rows], err_msg=name)
    np.testing.assert_array_equal(some["greedy_ids"], whole["greedy_ids"][[2, 0, 1][:last]])


def test_a_healthy_engine_agrees_with_itself_on_every_rung(bench: Bench, engine: Path) -> None:
    output = bench.folder / "probes.safetensors"
    lengths = (40, 23, 31, 19, 28, 36, 22, 30)
    job = {
        "engine": str(engine), "tokens": str(bench.tokens(VOCABULARY, lengths)), "top_k": 20,
        "prompts": list(range(8)), "longest": 24, "context": 150, "output": str(output),
    }  # fmt: skip

    bench.run("probe_engine", job, "probes")

    limit = Limit(1e-6, "at most", 0.99, 1)
    checks = {check.name: check for check in probe_checks(load_probes(output), limit)}
    for name in ("batch", "chunk", "decode", "reuse", "eviction"):
        assert checks[f"probe.{name}"].outcome == "pass", checks[f"probe.{name}"]
    most, asked = LIMITS["max_batch_size"], load_probes(output)
    assert asked.contexts is not None
    assert asked.contexts.ladders == {"chunk": ("chunk-64",)}
    assert asked.contexts.offsets.tolist() == [149 * number for number in range(9)]
    assert asked.ladders == {
        "batch": ("batch-2", "batch-3", "batch-4", f"batch-{most}-identical"),
        "chunk": ("chunk-7", "chunk-16"),
        "decode": ("decode-1",),
        "reuse": ("reuse-1", f"reuse-{most}"),
        "eviction": ("eviction-overwritten", "eviction-brought-back"),
    }


def test_a_runtime_that_forgets_how_much_is_in_its_cache_contradicts_itself(
    bench: Bench, engine: Path
) -> None:
    steps = Path(shutil.copytree(STEPS, bench.folder / "steps"))
    text = (steps / "_engine.py").read_text()
    healthy, broken = "positions = (slots[None, :]", "positions = (slots[None, :] - session.used"
    assert text.count(healthy) == 1
    (steps / "_engine.py").write_text(text.replace(healthy, broken))
    output = bench.folder / "probes.safetensors"
    job = {
        "engine": str(engine), "tokens": str(bench.tokens(VOCABULARY, (40, 23, 31, 19) * 2)),
        "top_k": 20, "prompts": list(range(8)), "longest": 24, "context": 24,
        "output": str(output),
    }  # fmt: skip
    (bench.folder / "job.json").write_text(json.dumps(job))

    command = [bench.python, steps / "probe_engine.py", "job.json", "result.json"]
    subprocess.run(list(map(str, command)), cwd=bench.folder, check=True, capture_output=True)

    checks = probe_checks(load_probes(output), Limit(1e-6, "at most", 0.99, 1))
    failed = {one.name.removeprefix("probe.") for one in checks if one.outcome == "fail"}
    assert failed == {"chunk", "decode", "reuse", "eviction"}


def test_rounds_that_leave_a_prompt_out_are_refused(bench: Bench, engine: Path) -> None:
    refusal = _refusal(lambda: _scores(bench, engine, "s", rounds=[[0], [2]]))

    assert refusal.kind == "job"
    assert "every prompt once" in str(refusal)


def test_scores_at_the_targets_ids_are_its_own_scores(bench: Bench, engine: Path) -> None:
    own = _scores(bench, engine, "own", top_k=5)
    targets = {"source": str(bench.folder / "own.safetensors")}

    again = _scores(bench, engine, "again", targets=targets, top_k=5)

    assert np.array_equal(again["at_source"], own["top_logprobs"])


def test_a_request_larger_than_the_engine_is_refused(bench: Bench, checkpoint: Path) -> None:
    small = LIMITS | {"max_seq_len": 32, "max_input_len": 32}
    bench.compile(checkpoint, "small", limits=small)

    refusal = _refusal(lambda: _scores(bench, bench.folder / "small", "s"))

    assert refusal.kind == "engine-limit"


def test_ids_beyond_the_vocabulary_are_refused(bench: Bench, engine: Path) -> None:
    refusal = _refusal(
        lambda: bench.score("score_engine", "v", VOCABULARY * 4, engine=str(engine), top_k=1)
    )

    assert refusal.kind == "vocabulary-mismatch"


def test_an_engine_of_another_cpu_is_refused_before_it_runs(bench: Bench, engine: Path) -> None:
    path = engine / "engine.json"
    description = json.loads(path.read_text())
    description["environment"]["isa"] = "asimd"
    path.write_text(json.dumps(description))

    assert _refusal(lambda: _scores(bench, engine, "s")).kind == "wrong-environment"


def test_an_existing_output_is_not_written_over(
    bench: Bench, engine: Path, checkpoint: Path
) -> None:
    before = sorted(path.name for path in engine.iterdir())

    assert _refusal(lambda: bench.compile(checkpoint)).kind == "output-exists"
    assert sorted(path.name for path in engine.iterdir()) == before


@pytest.mark.parametrize(
    "limits", [{"max_seq_len": 4096}, {"max_input_len": 4096}, {"max_batch_size": 0}]
)
def test_limits_that_cannot_be_are_refused(
    bench: Bench, checkpoint: Path, limits: dict[str, int]
) -> None:
    refusal = _refusal(lambda: bench.compile(checkpoint, limits=LIMITS | limits))

    assert refusal.kind == "limits"


def test_an_interrupted_compilation_leaves_nothing(
    bench: Bench, checkpoint: Path, tmp_path: Path
) -> None:
    output, graphs = tmp_path / "engine", tmp_path / "graphs"
    job = {
        "checkpoint": str(checkpoint),
        "output": str(output),
        "graphs": str(graphs),
        "limits": LIMITS,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [str(bench.python), str(STEPS / "compile_engine.py"), "job.json", "result.json"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(graphs.glob("*/.writing-*")) and time.monotonic() < deadline:
        time.sleep(0.05)  # until the compiler is at work

    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=60)

    assert not output.exists()
    assert not list(graphs.rglob("*.pt2"))
    assert not list(tmp_path.glob(".engine-*"))
