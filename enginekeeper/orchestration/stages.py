"""The stages that turn a source model into a scored engine, each made once per key.

Every function here does the same three things: names its product by the digest of what
goes into it, returns it at once if the work store has it, and otherwise runs one step. A
reference is looked for in the registry, too, before a step is run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from enginekeeper.building.interface import Builder, BuildRequest, BuiltEngine, TimingFiles
from enginekeeper.orchestration.interim import Interim
from enginekeeper.orchestration.tools import QUANTIZER
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.sources.model_directory import ModelFile
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.validation.tokens import TokenizedSuite, load_tokens
from registry.digests import Digest, digest_document, digest_file
from registry.manifests import Manifest

progress = logging.getLogger("enginekeeper.progress")

SCORES = "scores.safetensors"
PROBES = "probes.safetensors"
PROBE_TOKENS = 48
"""Of each prompt: past the chunks of 7 and 16, and every one is a step of decode."""

PROBE_CONTEXT, LONG_CONTEXT = 192, 1088
"""Tokens of what is asked in chunks that the beginnings are too short for: three of 64; of a suite
that has such long texts, two of 512 and something more."""

REFERENCE = "reference"
"""The reference's directory in its product: its artifact, without the record beside it."""

Fetch = Callable[[Digest, Path], dict[str, Any] | None]
"""Brings a product of this key into a directory and returns its record; None: there is none."""


@dataclass(frozen=True)
class Source:
    """A source model on this machine."""

    path: Path
    digest: Digest
    note: str | None = None
    """What every figure measured against it must say, such as `dequantized from Q4_1`."""

    files: tuple[ModelFile, ...] = ()
    """What of the directory is the model; empty where nobody asked."""


@dataclass(frozen=True)
class Checkpoint:
    """A TensorRT-LLM checkpoint on this machine, by the digest of its manifest."""

    path: Path
    digest: Digest


class TimingRun(Protocol):
    """The timing cache of one build."""

    @property
    def files(self) -> TimingFiles:
        """Where it starts from, and where it is left."""
        ...

    def end(self, built: BuiltEngine) -> Mapping[str, Any]:
        """Keeps what was measured; returns what is recorded of it."""
        ...


class Timing(Protocol):
    """Where builds take their timing cache from."""

    def begin(self, directory: Path) -> TimingRun:
        """Fetches one for a build."""
        ...


@dataclass(frozen=True)
class Compilation:
    """What makes an engine of a checkpoint, and what is asked of it."""

    builder: Builder
    limits: Mapping[str, int]
    options: Mapping[str, bool | int | str] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    """What the engine depends on besides: its GPU, and the code of a double."""

    minutes: float = 60
    """How long it may take."""

    timing: Timing | None = None
    """It changes how long a build takes, and has no part in what names the engine."""

    def inputs(self, shop: Workshop) -> dict[str, Any]:
        """Returns what of it changes the engine."""
        builder = self.builder
        own = {"options": dict(self.options), "bound": dict(self.bound)}
        return {
            "limits": dict(self.limits),
            "made_by": shop.identity(builder.toolchain, builder.compile_step),
            **{name: value for name, value in own.items() if value},
        }


@dataclass(frozen=True)
class Made:
    """A stage's product and how it came about."""

    path: Path
    key: Digest
    reused: bool
    seconds: float
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoring:
    """How arms are scored: the same for all of them, so that they can be compared."""

    suite: Path
    suite_digest: Digest
    max_tokens_per_prompt: int
    top_k: int
    reference_toolchain: str
    reference_dtype: str
    greedy_prefix: int = 32
    greedy_tokens: int = 32

    @property
    def greedy(self) -> dict[str, int]:
        """The greedy continuation of every prompt, as the steps take it."""
        return {"prefix": self.greedy_prefix, "tokens": self.greedy_tokens}


@dataclass(frozen=True)
class Runner:
    """What asks an engine: a step, where it runs, and what it is told of the engine."""

    toolchain: str
    step: str
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Probe:
    """What every arm is scored with: the settings, the tokens, and the arms to compare with."""

    scoring: Scoring
    tokens: Made
    targets: Mapping[str, Made]

    @property
    def suite(self) -> TokenizedSuite:
        """The probe suite in the model's own tokens."""
        return load_tokens(self.tokens.path / "tokens.json")

    @property
    def reference(self) -> Digest:
        """The reference's id: the digest of its manifest."""
        return Digest.parse(self.targets["source"].record["digest"])

    @property
    def context(self) -> int:
        """How many tokens a context has that is asked in larger chunks."""
        longest = max(len(prompt.ids) for prompt in self.suite.prompts)
        return LONG_CONTEXT if longest >= LONG_CONTEXT else PROBE_CONTEXT

    def inputs(self) -> dict[str, Any]:
        """Returns what of the probe changes a score file.

        Targets enter by their bytes: one key may stand for references of two machines.
        """
        return {
            "tokens": str(self.tokens.key),
            "targets": {
                name: str(digest_file(made.path / SCORES)) for name, made in self.targets.items()
            },
            "top_k": self.scoring.top_k,
            "greedy": self.scoring.greedy,
        }

    def job(self, directory: Path) -> dict[str, Any]:
        """Returns the part of a scoring step's job that all arms share."""
        targets = {name: str(made.path / SCORES) for name, made in self.targets.items()}
        return {
            "tokens": str(self.tokens.path / "tokens.json"),
            "targets": targets,
            "output": str(directory / SCORES),
            "top_k": self.scoring.top_k,
            "greedy": self.scoring.greedy,
        }


def tokenize(shop: Workshop, source: Source, scoring: Scoring) -> Made:
    """Makes the probe suite's token ids under the source model's tokenizer."""
    inputs = {
        "model": str(source.digest),
        "suite": str(scoring.suite_digest),
        "max_tokens": scoring.max_tokens_per_prompt,
        "made_by": shop.identity("inductor", "tokenize_suite"),
    }

    def make(directory: Path) -> dict[str, Any]:
        job = {
            "model": str(source.path),
            "suite": str(scoring.suite),
            "output": str(directory / "tokens.json"),
            "max_tokens_per_prompt": scoring.max_tokens_per_prompt,
        }
        outcome = shop.run("inductor", "tokenize_suite", job, name="suite", minutes=5)
        if cut := outcome.outputs.get("cut", 0):
            progress.info(
                "suite: %s prompts are longer than limits.max_input_len, %s tokens, and were cut",
                cut,
                scoring.max_tokens_per_prompt,
            )
        return {"seconds": outcome.seconds, "cut": cut}

    return made_once(shop, "tokens", inputs, make)


def score_reference(
    shop: Workshop, source: Source, scoring: Scoring, tokens: Made, fetch: Fetch
) -> Made:
    """Scores the unquantized source under vLLM: the reference of every variant of every machine.

    Its tokens enter by what they are, so that a reference is of exactly the tokens at hand.
    """
    inputs = {
        "model": str(source.digest),
        "suite": str(scoring.suite_digest),
        "tokens": str(load_tokens(tokens.path / "tokens.json").digest),
        "dtype": scoring.reference_dtype,
        "top_k": scoring.top_k,
        "greedy": scoring.greedy,
        "made_by": shop.identity(scoring.reference_toolchain, "reference"),
    }

    def make(directory: Path) -> dict[str, Any]:
        job = {
            "model": str(source.path),
            "tokens": str(tokens.path / "tokens.json"),
            "output": str(directory / REFERENCE / SCORES),
            "top_k": scoring.top_k,
            "dtype": scoring.reference_dtype,
            "greedy": scoring.greedy,
        }
        outcome = shop.run(
            scoring.reference_toolchain, "reference", job, name="reference", minutes=60
        )
        found = described(directory / REFERENCE, "reference", outcome.seconds, key=key)
        return {**found, "versions": dict(outcome.versions)}

    key = work_key("reference", inputs)
    made = made_once(shop, "reference", inputs, make, fetch)
    return replace(made, path=made.path / REFERENCE)


def quantize(shop: Workshop, source: Source, name: str, request: Mapping[str, Any]) -> Made:
    """Quantizes the source and exports a TensorRT-LLM checkpoint, exactly as ModelOpt wrote it.

    `request` is the step's job without its paths; its calibration file enters by digest. In Hugging
    Face's format it has what serves the model, too, whose digest names that.
    """
    calibration = Path(request["calibration"]["path"])
    inputs = {
        "model": str(source.digest),
        "request": {
            **request,
            "calibration": {**request["calibration"], "path": str(digest_file(calibration))},
        },
        "made_by": shop.identity(*QUANTIZER),
    }

    def make(directory: Path) -> dict[str, Any]:
        job = {**request, "model": str(source.path), "output": str(directory / "checkpoint")}
        if request.get("format") == "huggingface":
            job["files"] = [one.name for one in source.files]
        outcome = shop.run(*QUANTIZER, job, name=name, minutes=120)
        return described(directory / "checkpoint", "checkpoint", outcome.seconds)

    return made_once(shop, "checkpoint", inputs, make)


def compile_engine(
    shop: Workshop, checkpoint: Checkpoint, name: str, compilation: Compilation
) -> Made:
    """Compiles a checkpoint into an engine directory."""
    inputs = {
        "checkpoint": str(checkpoint.digest),
        **compilation.inputs(shop),
        "record": "with its run",  # a product without one has nothing true to be signed of it
    }

    def run(toolchain: str, step: str, job: Mapping[str, Any]) -> StepOutcome:
        return shop.run(toolchain, step, job, name=name, minutes=compilation.minutes)

    def make(directory: Path) -> dict[str, Any]:
        timing = (
            None if compilation.timing is None else compilation.timing.begin(directory / "timing")
        )
        request = BuildRequest(
            checkpoint.path, directory / "engine", compilation.limits, compilation.options,
            None if timing is None else timing.files,
        )  # fmt: skip
        started = shop.clock()
        built = compilation.builder.build(request, run)
        times = {"started": started, "finished": shop.clock()}
        measured = {} if timing is None else {"timing": dict(timing.end(built))}
        return {
            **measured,
            **described(built.directory, "engine", built.seconds),
            "graphs": [asdict(graph) for graph in built.graphs],
            "report": dict(built.report),
            "simulated": built.simulated,
            "run": {"invocation": shop.logs.name, **times},
        }

    return made_once(shop, "engine", inputs, make)


def fetched(shop: Workshop, kind: str, digest: Digest, fetch: Callable[[Path], object]) -> Made:
    """Brings a published engine or checkpoint here; `fetch` verifies what it writes.

    It lies as the stage that made it would have left it, and scores as that would: by its bytes.
    """

    def write(directory: Path) -> dict[str, Any]:
        fetch(directory / kind)
        return described(directory / kind, kind, 0.0)

    return made_once(shop, f"fetched-{kind}", {"published": str(digest)}, write)


def score_model(shop: Workshop, model: Path, digest: Digest, probe: Probe, name: str) -> Made:
    """Scores a Hugging Face directory (a twin, or the source) under transformers in fp32."""
    inputs = {
        "arm": str(digest),
        **probe.inputs(),
        "made_by": shop.identity("inductor", "score_twin"),
    }

    def make(directory: Path) -> dict[str, Any]:
        job = {**probe.job(directory), "twin": str(model)}
        outcome = shop.run("inductor", "score_twin", job, name=name, minutes=60)
        return {"seconds": outcome.seconds}

    return made_once(shop, "twin-scores", inputs, make)


def inductor_runner(engine: Made) -> Runner:
    """Returns what asks an engine of the embedded builder."""
    told = {"engine": str(engine.path / "engine"), "batch_size": 1}
    return Runner("inductor", "score_engine", told)


def score_engine(
    shop: Workshop,
    engine: Made,
    probe: Probe,
    name: str,
    *,
    runner: Runner,
    interim: Interim | None = None,
) -> Made:
    """Scores an engine on the same tokens; the caller has verified its signature before.

    With `interim` the run ends as soon as that says so; the record tells which prompts were scored.
    """
    inputs = {
        "arm": engine.record["digest"],
        **probe.inputs(),
        "made_by": shop.identity(runner.toolchain, runner.step),
    }
    if interim is not None:
        inputs["interim"] = {**interim.inputs(), "made_by": shop.code("validation")}

    def make(directory: Path) -> dict[str, Any]:
        job = {**probe.job(directory), **runner.told}
        if interim is None:
            outcome = shop.run(runner.toolchain, runner.step, job, name=name, minutes=60)
            return {"seconds": outcome.seconds, "caches": outcome.outputs.get("caches")}
        output = directory / SCORES
        outcome = shop.run(
            runner.toolchain,
            runner.step,
            {**job, "rounds": interim.rounds},
            name=name,
            minutes=60,
            on_line=interim.answering(output),
        )
        for left in ("part", "answer"):
            output.with_name(f"{SCORES}.{left}").unlink(missing_ok=True)
        stop = None if interim.stop is None else interim.stop.as_dict()
        return {
            "seconds": outcome.seconds,
            "stopped": stop,
            "prompts": list(interim.order),
            "caches": outcome.outputs.get("caches"),
        }

    return made_once(shop, "engine-scores", inputs, make)


def probing_job(probe: Probe, prompts: Sequence[int], directory: Path) -> dict[str, Any]:
    """Returns the part of a probing step's job that all runners share."""
    return {
        "tokens": str(probe.tokens.path / "tokens.json"),
        "prompts": list(prompts),
        "longest": PROBE_TOKENS,
        "top_k": probe.scoring.top_k,
        "output": str(directory / PROBES),
    }


def probe_engine(
    shop: Workshop,
    engine: Made,
    probe: Probe,
    prompts: Sequence[int],
    name: str,
    *,
    runner: Runner | None = None,
) -> Made:
    """Asks a verified engine the beginnings of some prompts in other ways."""
    told = {"engine": str(engine.path / "engine"), "context": probe.context}
    runner = runner or Runner("inductor", "probe_engine", told)
    inputs = {
        "prompts": list(prompts),
        "longest": PROBE_TOKENS,
        "context": runner.told.get("context"),
        "top_k": probe.scoring.top_k,
        "engine": engine.record["digest"],
        "tokens": str(probe.tokens.key),
        "made_by": shop.identity(runner.toolchain, runner.step),
    }

    def make(directory: Path) -> dict[str, Any]:
        job = {**probing_job(probe, prompts, directory), **runner.told}
        outcome = shop.run(runner.toolchain, runner.step, job, name=name, minutes=60)
        return {"seconds": outcome.seconds}

    return made_once(shop, "engine-probes", inputs, make)


def described(
    directory: Path, kind: str, seconds: float, *, key: Digest | None = None
) -> dict[str, Any]:
    """Returns what is recorded of a product that is a directory of files."""
    manifest = Manifest.of_directory(directory, kind, key=key)
    return {"digest": str(manifest.digest), "seconds": seconds}


def work_key(kind: str, inputs: Mapping[str, Any]) -> Digest:
    """Names a product by what it is made from."""
    return digest_document({"kind": kind, **inputs}, "ek-work-v1")


def made_once(
    shop: Workshop,
    kind: str,
    inputs: Mapping[str, Any],
    make: Callable[[Path], dict[str, Any]],
    fetch: Fetch = lambda _key, _directory: None,
) -> Made:
    """Returns a product of this kind and these inputs: from the work store, fetched, or made.

    `make` fills the directory it is given and returns what is to be recorded of it.
    """
    key = work_key(kind, inputs)
    with shop.work.product(kind, key) as (product, record):
        fetched = None if product.complete else fetch(key, product.path)
        if not product.complete:
            record.update(make(product.path) if fetched is None else fetched)
            record.setdefault("seconds", 0.0)
            record["inputs"] = dict(inputs)
        reused = product.complete or fetched is not None
    path = shop.work.path(kind, key)
    return Made(path, key, reused, float(record.get("seconds", 0.0)), record)
