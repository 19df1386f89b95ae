"""The probe of where texts end, on a real engine beside its model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from enginekeeper.orchestration.twin_probes import QUESTIONS
from enginekeeper.validation.checks import Check, Limit
from enginekeeper.validation.endings import BothEndings, endings_check, load_endings
from tests.factories.engine_bench import Bench
from tests.factories.tiny_decoders import FAMILIES, VOCABULARY, write_decoder

pytestmark = pytest.mark.toolchain

ENDS = list(range(0, VOCABULARY, 8))
LIMIT = Limit(0.0025, "at most", 0.99, 6)


def asked(bench: Bench, source: Path, shipped: Path | None) -> BothEndings | str:
    output = bench.folder / "endings.json"
    job = {
        "engine": str(bench.folder / "engine"), "twin": str(source), "source": str(source),
        "shipped": None if shipped is None else str(shipped), "questions": str(QUESTIONS),
        "most": 24, "output": str(output),
    }  # fmt: skip
    bench.run("probe_endings", job, "endings")
    return load_endings(output)


def judged(said: BothEndings | str) -> Check:
    assert isinstance(said, BothEndings)
    return endings_check(said, LIMIT)


def test_an_engine_that_is_served_with_fewer_ends_fails_and_a_healthy_one_ends_alike(
    bench: Bench, tmp_path: Path
) -> None:
    source, checkpoint = write_decoder(FAMILIES["llama"], tmp_path / "llama")
    vocabulary = {chr(number): number for number in range(VOCABULARY)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": model}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    bench.compile(checkpoint)
    without = asked(bench, source, None)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS}))
    shipped = Path(shutil.copytree(source, tmp_path / "shipped"))
    healthy = judged(asked(bench, source, shipped))
    (shipped / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS[-1]}))

    wrong = judged(asked(bench, source, shipped))

    assert without == "nothing says at which token a text ends"
    assert (healthy.outcome, healthy.value) == ("pass", 0.0)
    assert "32 of 32 texts end alike" in str(healthy.note)
    assert wrong.outcome == "fail"
    assert "tokens longer" in str(wrong.finding)


def test_a_template_that_renders_no_question_leaves_nothing_to_compare(
    bench: Bench, tmp_path: Path
) -> None:
    source, _ = write_decoder(FAMILIES["llama"], tmp_path / "llama")
    vocabulary = {chr(number): number for number in range(VOCABULARY)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": model}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS}))
    (source / "chat_template.jinja").write_text("{{ raise_exception('only in pairs') }}")

    said = asked(bench, source, None)

    assert "renders no question: TemplateError only in pairs" in str(said)
