"""Steps that need no toolchain: the real frame and file formats, and numbers that mean nothing.

Run as a toolchain's interpreter is (`-s -E -u .../steps/NAME.py JOB RESULT`) with the path of a
file before that; while that file is there, a step waits half-way. See `tests.fakes.toolchains`.
Strict: a job with a field that the real step does not take, or without one that it needs, is a
crash. Marked: their results say `"fake": true`, their logs say FAKE.

Only what the interruption and disk tests need is here: every arm gives the same scores, so a
verdict passes, and checkpoints are ModelOpt's own exports of the tiny model in `tests/assets`.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

ROOT = Path(__file__).parents[2]
EXPORTS = ROOT / "tests" / "assets" / "modelopt-0.47-tiny"
sys.path.insert(0, str(ROOT / "enginekeeper" / "steps"))

Job = dict[str, Any]
HOLD = Path(sys.argv[1])
VOCABULARY = 96
EFFECTIVE = ("dtype", "max_model_len", "enforce_eager", "trust_remote_code")


def fetch_hub(job: Job) -> Job:
    _check(job, {"repo", "revision", "output"})
    output = None if job["output"] is None else Path(job["output"])
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # an interrupted download goes on
        shutil.copyfile(EXPORTS / "source" / "config.json", output / "config.json")
        _half_way()
        shutil.copyfile(EXPORTS / "source" / "model.safetensors", output / "model.safetensors")
        vocabulary = {chr(0x4E00 + number): number for number in range(VOCABULARY)}
        tokenizer = {"model": {"type": "BPE", "vocab": vocabulary}}
        (output / "tokenizer.json").write_text(json.dumps(tokenizer))
    return {"commit": job["revision"]}


def tokenize_suite(job: Job) -> Job:
    _check(job, {"model", "suite", "output", "max_tokens_per_prompt"})
    lines = Path(job["suite"]).read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line) for line in lines if line.strip()]
    longest = job["max_tokens_per_prompt"]
    rows = [
        {"id": one["id"], "stratum": one["stratum"], "ids": _ids(one["text"])[:longest]}
        for one in prompts
    ]
    _half_way()
    document = {"prompts": rows, "vocab_size": VOCABULARY}
    Path(job["output"]).write_text(json.dumps(document), encoding="utf-8")
    return {"prompts": len(rows)}


def quantize(job: Job) -> Job:
    calibration = {"path", "samples", "max_tokens", "seed"}
    _check(
        job,
        {"model", "output", "recipe", "kv_cache", "group_size", "exclude_modules", "calibration",
         "tensor_parallel", "pipeline_parallel", "dtype"},
        optional=frozenset({"format", "files"}),
    )  # fmt: skip
    _check(job["calibration"], calibration)
    output, tensor = Path(job["output"]), job["tensor_parallel"]
    output.mkdir()
    if job.get("format") == "huggingface" and job["recipe"] == "none":
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(EXPORTS / "source" / name, output / name)
            _half_way()
        return {}
    if job.get("format") == "huggingface":
        export = EXPORTS / f"unified_{job['recipe']}"
        shutil.copyfile(export / "config.json", output / "config.json")
        _half_way()
        for name in ("hf_quant_config.json", "model.safetensors"):
            shutil.copyfile(export / name, output / name)
        return {}
    export = EXPORTS / (job["recipe"] if tensor == 1 else f"{job['recipe']}_tp{tensor}")
    shutil.copyfile(export / "config.json", output / "config.json")
    _half_way()
    for weights in sorted(export.glob("rank*.safetensors")):
        shutil.copyfile(weights, output / weights.name)
    return {}


def compile_engine(job: Job) -> Job:
    _check(job, {"checkpoint", "output", "graphs", "limits"})
    output = Path(job["output"])
    shutil.copytree(job["checkpoint"], output)
    _half_way()
    (output / "graphs").mkdir()
    (output / "graphs" / "prefill.pt2").write_bytes(b"FAKE" * 50_000)
    description = {"schema": 1, "builder": "inductor", "limits": job["limits"], "fake": True}
    (output / "engine.json").write_text(json.dumps(description))
    return {"engine": description, "graphs": []}


def bundle_vllm(job: Job) -> Job:
    _check(job, {"model", "config"})
    lines = Path(job["config"]).read_text(encoding="utf-8").splitlines()
    told = dict(line.split(": ", 1) for line in lines if not line.startswith("#"))
    architecture = json.loads((Path(job["model"]) / "config.json").read_text())["architectures"][0]
    _half_way()
    effective = {name: json.loads(told[name.replace("_", "-")]) for name in EFFECTIVE}
    return {"vllm": "fake", "architecture": architecture, "effective": effective}


def score_vllm(job: Job) -> Job:
    _check(job, {"bundle", "tokens", "targets", "output", "top_k", "greedy"})
    if not (Path(job["bundle"]) / "serve.yaml").is_file():
        raise AssertionError(f"no bundle in {job['bundle']}")
    return _score(job, "engine")


def reference(job: Job) -> Job:
    _check(job, {"model", "tokens", "output", "top_k", "dtype", "greedy"})
    return _score(job, "source", vllm="fake")


def score_twin(job: Job) -> Job:
    _check(
        job,
        {"twin", "tokens", "targets", "output", "top_k", "greedy"},
        optional=frozenset({"nudge"}),
    )
    is_twin = (Path(job["twin"]) / "twin.json").is_file()
    return _score(job, "twin" if is_twin else "source")


def score_engine(job: Job) -> Job:
    _check(
        job,
        {"engine", "tokens", "targets", "output", "top_k", "greedy", "batch_size"},
        optional=frozenset({"rounds"}),
    )
    if not (Path(job["engine"]) / "engine.json").is_file():
        raise AssertionError(f"no engine in {job['engine']}")
    return _score(job, "engine")


CACHES = frozenset({"caches", "gpu", "ranks"})
"""What a step is told of a bundle besides."""


def run_with_double(job: Job) -> Job:
    _check(job, {"step", "job", "double"})
    _check(job["double"], {"version", "models"}, optional=frozenset({"programs"}))
    asked: Job = job["job"]
    if job["step"] in ("warm_pytorch", "describe_runtime"):
        return {**_on_the_double(job["step"], asked, job["double"]), "simulated": True}
    if job["step"] == "probe_trtllm":
        return {**_probe(asked, job["double"]), "simulated": True}
    shared = {"tokens", "targets", "output", "top_k", "greedy", "way", "max_batch"}
    if job["step"] == "score_served":
        _check(asked, {*shared, "serve", "logprobs"}, optional=CACHES)
        _check(asked["serve"], {"version", "arguments", "options"})
        model = asked["serve"]["arguments"][0]
    elif job["step"] == "score_triton":
        _check(asked, {*shared, "triton", "logprobs"})
        _check(asked["triton"], {"repository", "model"})
        text = asked["triton"]["repository"][f"{asked['triton']['model']}/config.pbtxt"]
        model = text.split('key: "gpt_model_path" value { string_value: "')[1].split('"')[0]
    else:
        _check(asked, {*shared, "api"}, optional=CACHES | {"rounds"})
        _check(asked["api"], {"module", "version", "arguments"})
        model = asked["api"]["arguments"]["model"]
    asking = ("score_trtllm", "score_served", "score_triton")
    if job["step"] not in asking or model not in job["double"]["models"]:
        raise AssertionError(f"step {job['step']}: nothing stands in for {model}")
    found = _score(asked, "engine")
    if "caches" not in asked:
        return found
    _on_path(job["double"])
    runtime: Any = importlib.import_module("_runtime")
    return {**found, "caches": runtime.lead_caches(asked)}


def _probe(job: Job, double: Job) -> Job:
    """Writes what an engine that never contradicts itself says, with the real step's writer."""
    import numpy as np  # noqa: PLC0415

    shared = {"tokens", "prompts", "longest", "top_k", "output", "api", "reusing", "limits"}
    _check(job, shared, optional=CACHES)
    _on_path(double)
    runtime: Any = importlib.import_module("_runtime")
    caches = runtime.lead_caches(job)
    real: Any = importlib.import_module("probe_trtllm")
    count, top_k = len(job["prompts"]), job["top_k"]
    rows = np.full((count * real.TOKENS, top_k), -np.log(2.0 * top_k), dtype=np.float32)
    ladders = {"decode": ["decode-1"], "batch": ["batch-2"], "reuse": ["reuse-1"]}
    arrays: Job = {"top_logprobs": rows}
    for name in (one for rungs in ladders.values() for one in rungs):
        arrays |= {name: rows, f"finite_{name}": np.ones(len(rows), dtype=np.uint8)}
    arrays["offsets"] = np.arange(count + 1, dtype=np.int64) * real.TOKENS
    kept = {"asked": 1, "wrong": []}
    said = {"stop": kept, "chosen": kept}
    real._write(Path(job["output"]), arrays, ladders, job["prompts"], said)
    return {"rungs": ladders, "caches": caches}


class _Warming:
    """Stands for the step's LLM: it loads nothing, and fills the caches that it is led to."""

    def __init__(self, api: Job, vocabulary: int) -> None:
        _check(api, {"module", "version", "arguments"})
        if vocabulary != VOCABULARY:
            raise AssertionError(f"a vocabulary of {vocabulary}")
        self._ranks: int = api["arguments"]["tensor_parallel_size"]
        seen = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        if len(seen) != self._ranks:
            raise AssertionError(f"{self._ranks} ranks see {seen}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def ask(self, prompts: list[list[int]], tokens: int) -> None:
        if not prompts or not tokens:
            raise AssertionError("nothing is asked")
        tactics: Job = {f"rank_{rank}": {} for rank in range(self._ranks)}
        Path(os.environ["TLLM_AUTOTUNER_CACHE_PATH"]).write_text(json.dumps(tactics))
        kernel = Path(os.environ["TRITON_CACHE_DIR"]) / "QX3K" / "rms_norm.cubin"
        kernel.parent.mkdir(parents=True, exist_ok=True)
        kernel.write_bytes(b"FAKE kernel")


def _on_the_double(step: str, job: Job, double: Job) -> Job:
    """Runs the real step with neither TensorRT-LLM nor torch; the driver is the simulated one."""
    if step == "warm_pytorch" and job["api"]["arguments"]["model"] not in double["models"]:
        raise AssertionError(f"nothing stands in for {job['api']['arguments']['model']}")
    _on_path(double)
    _stand_in("_llm_api", LlmApi=_Warming)
    _half_way()
    script: Any = importlib.import_module(step)
    found: Job = script.run(job, simulated=True) if step == "warm_pytorch" else script.run(job)
    return found


def _on_path(double: Job) -> None:
    """Puts the doubles of NVIDIA's programs where the steps look, and a version of CUDA."""
    os.environ["PATH"] = f"{double['programs']}{os.pathsep}{os.environ['PATH']}"
    _stand_in("torch", version=SimpleNamespace(cuda="13.0"))


def _stand_in(name: str, **content: object) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module


STEPS: dict[str, Callable[[Job], Job]] = {
    step.__name__: step
    for step in (
        fetch_hub, tokenize_suite, quantize, compile_engine, reference, score_twin, score_engine,
        bundle_vllm, score_vllm,
        run_with_double,
    )
}  # fmt: skip


def _score(job: Job, arm: str, **meta: str) -> Job:
    import numpy as np  # noqa: PLC0415 - most steps need none, and it takes a fifth of a second

    files: Any = importlib.import_module("_score_file")
    tokens = files.read_tokens(Path(job["tokens"]), VOCABULARY)
    positions = int(tokens.offsets[-1])
    logits = 2.0 * np.random.default_rng(7).standard_normal((positions, VOCABULARY))
    rows = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    top = np.argsort(-rows, axis=1)[:, : job["top_k"]].astype(np.int32)
    following = np.concatenate([np.asarray(ids[1:]) for ids in tokens.ids])
    greedy = np.full((len(tokens.ids), job["greedy"]["tokens"]), 5, dtype=np.int32)
    _half_way()
    targets = files.read_targets(job.get("targets", {}), positions, VOCABULARY)
    arrays = {
        "offsets": tokens.offsets,
        "top_ids": top,
        "top_logprobs": np.take_along_axis(rows, top, axis=1),
        "target_logprobs": rows[np.arange(positions), following],
        "finite": np.ones(positions, dtype=np.uint8),
        "greedy_ids": greedy,
        "greedy_logprobs": np.full(greedy.shape, -3.0, dtype=np.float32),
        **{f"at_{n}": np.take_along_axis(rows, ids, axis=1) for n, ids in targets.items()},
    }
    chosen = _in_rounds(job, arrays, arm)
    files.write_scores(
        Path(job["output"]), _only(arrays, chosen), arm=arm, meta={"fake": True, **meta}
    )
    return {}


def _in_rounds(job: Job, arrays: Job, arm: str) -> list[int]:
    """Asks after every round, as `_rounds` does after every prompt; returns what was scored."""
    files: Any = importlib.import_module("_score_file")
    output, scored = Path(job["output"]), list[int]()
    for one in job.get("rounds", []):
        scored += one
        part = output.with_name(output.name + ".part")
        files.write_scores(part, _only(arrays, one), arm=arm, meta={"fake": True})
        print(f"ask {len(scored)}", flush=True)  # noqa: T201 - what a step says
        answer = output.with_name(output.name + ".answer")
        while not answer.is_file() or answer.read_text().split()[0] != str(len(scored)):
            time.sleep(0.01)
        if answer.read_text().endswith("stop"):
            break
    return scored or list(range(len(arrays["offsets"]) - 1))


def _only(arrays: Job, chosen: list[int]) -> Job:
    import numpy as np  # noqa: PLC0415

    starts = arrays["offsets"]
    rows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in chosen])
    lengths = [starts[one + 1] - starts[one] for one in chosen]
    return {
        name: np.cumsum([0, *lengths], dtype=np.int64)
        if name == "offsets"
        else array[chosen if name.startswith("greedy") else rows]
        for name, array in arrays.items()
    }


def _ids(text: str) -> list[int]:
    return [byte % VOCABULARY for byte in text.encode()]


def _check(fields: Job, wanted: set[str], *, optional: frozenset[str] = frozenset()) -> None:
    if not wanted <= set(fields) <= wanted | optional:
        raise AssertionError(f"fields {sorted(fields)}, expected {sorted(wanted)}")


def _half_way() -> None:
    """Tells that something is written and something is not; a test interrupts here, or holds."""
    print("progress 1/2 FAKE, half-way", flush=True)  # noqa: T201 - what a step says
    while HOLD.exists():
        time.sleep(0.05)


def main() -> None:
    if sys.argv[2:5] != ["-s", "-E", "-u"] or len(sys.argv) != 8:
        raise AssertionError(f"steps are not started like this: {sys.argv}")
    script, job, result = sys.argv[5:]
    sys.argv = [script, job, result]
    step = STEPS[Path(script).stem]
    frame: Any = importlib.import_module("_step")
    frame.main(lambda given: {**step(given), "fake": True})


if __name__ == "__main__":
    main()
