"""The probes of what is shipped beside an engine, with real tokenizers and templates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.orchestration.tokenizer_probe import AWKWARD
from enginekeeper.sources.inspection import inspect_model
from enginekeeper.toolchains.errors import StepRefusedError
from enginekeeper.validation.probes import Counted
from enginekeeper.validation.tokenizers import load_texts
from tests.factories.engine_bench import Bench
from tests.factories.tiny_llama import VOCABULARY, llama_config, random_weights, write_model
from tests.factories.vllm_bundles import BUILDER, build_bundle

pytestmark = pytest.mark.toolchain

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
END = 10  # a byte of the alphabet
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = write_model(tmp_path / "source", llama_config(), random_weights())
    (model / "chat_template.jinja").write_text(TEMPLATE)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, 11]}))

    def add(document: dict[str, Any]) -> None:
        document["added_tokens"] = [
            {
                "id": 255, "content": "<end>", "special": True, "single_word": False,
                "lstrip": False, "rstrip": False, "normalized": False,
            }
        ]  # fmt: skip
        document["model"]["vocab"] = {
            piece: number for piece, number in document["model"]["vocab"].items() if number < 255
        }

    edit(model / "tokenizer.json", add)
    return model


def edit(path: Path, change: Edit) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def probed(bench: Bench, source: Path, shipped: Path) -> dict[str, Counted | str]:
    output = bench.folder / "texts.json"
    job = {
        "source": str(source), "shipped": str(shipped), "vocabulary": VOCABULARY,
        "texts": str(AWKWARD), "output": str(output),
    }  # fmt: skip
    bench.run("probe_tokenizer", job, "texts")
    return load_texts(output)


def wrong(said: dict[str, Counted | str]) -> dict[str, tuple[str, ...]]:
    counted = {name: one for name, one in said.items() if isinstance(one, Counted)}
    return {name.removeprefix("probe."): one.wrong for name, one in counted.items() if one.wrong}


@pytest.fixture
def shipped(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "shipped"))


def test_a_copy_says_the_same_of_every_text(bench: Bench, source: Path, shipped: Path) -> None:
    said = probed(bench, source, shipped)

    assert wrong(said) == {}
    counts = [one.asked for one in said.values() if isinstance(one, Counted)]
    assert counts == [78 - 1, 30, 2]


def test_our_own_bundle_of_a_model_with_more_ends_than_its_config_ends_as_it_does(
    bench: Bench, source: Path, tmp_path: Path
) -> None:
    (source / "additional_chat_templates").mkdir()
    tools = "{{ tools[0]['function']['name'] }}"
    (source / "additional_chat_templates" / "tool_use.jinja").write_text(tools)
    files = {one.name: one.sha256 for one in inspect_model(source, tmp_path / "memory").files}
    builder = replace(BUILDER, files=files)
    bundle = build_bundle(tmp_path / "bundle", builder=builder, model=source).directory

    said = probed(bench, source, bundle / "model")

    assert wrong(said) == {}
    (bundle / "model" / "generation_config.json").unlink()
    (bundle / "model" / "additional_chat_templates" / "tool_use.jinja").unlink()
    assert set(wrong(probed(bench, source, bundle / "model"))) == {"stop_tokens", "template"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(normalizer={"type": "NFC"}), "nfd"),
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "shouting"),
        (lambda d: d["added_tokens"][0].update(special=False), "added tokens: 1 are others"),
        (lambda d: d["added_tokens"].clear(), "added-tokens-0"),
        (lambda d: d["model"]["vocab"].update({"Ā": 254, "ā": 0}), "vocabulary: "),
        (lambda d: d["model"]["vocab"].update({"<x>": 300}), "id 300 has no row"),
        (
            lambda d: d.update(
                post_processor={
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<end>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                    "special_tokens": {"<end>": {"id": "<end>", "ids": [255], "tokens": ["<end>"]}},
                }
            ),
            "empty ('')",
        ),
    ],
)
def test_a_tokenizer_that_cuts_otherwise_is_told_with_the_text(
    bench: Bench, source: Path, shipped: Path, change: Edit, told: str
) -> None:
    edit(shipped / "tokenizer.json", change)

    said = wrong(probed(bench, source, shipped))

    assert any(told in one for one in said["tokenizer"]), said


@pytest.mark.parametrize(
    "template", [TEMPLATE.replace("_prompt", "_promp"), TEMPLATE.replace("\n", " "), TEMPLATE[:-40]]
)
def test_a_template_that_renders_otherwise_is_told(
    bench: Bench, source: Path, shipped: Path, template: str
) -> None:
    (shipped / "chat_template.jinja").write_text(template)

    said = wrong(probed(bench, source, shipped))

    assert set(said) == {"template"}


def test_a_template_that_reaches_for_the_machine_is_kept_in_its_sandbox(
    bench: Bench, source: Path, shipped: Path, tmp_path: Path
) -> None:
    reach = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__ }}"
    (shipped / "chat_template.jinja").write_text(reach)

    said = wrong(probed(bench, source, shipped))

    assert "refused: SecurityError" in said["template"][0]
    assert tmp_path.exists()


def test_a_list_of_ends_that_lost_one_is_told(bench: Bench, source: Path, shipped: Path) -> None:
    (shipped / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))

    said = wrong(probed(bench, source, shipped))

    assert [one.split()[0] for one in said["stop_tokens"]] == ["11"]


def test_what_is_no_tokenizer_is_refused(bench: Bench, source: Path, shipped: Path) -> None:
    (shipped / "tokenizer.json").write_text("{}")

    with pytest.raises(StepRefusedError, match="cannot be loaded"):
        probed(bench, source, shipped)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{{ 'a' * 4000000000000000000 }}", "MemoryError"),
    ],
)
def test_a_template_that_breaks_on_what_it_is_given_is_told(
    bench: Bench, source: Path, shipped: Path, template: str, told: str
) -> None:
    (shipped / "chat_template.jinja").write_text(template)

    said = wrong(probed(bench, source, shipped))

    assert f"refused: {told}" in said["template"][0]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "refused: it takes more than 20 s of processor time",
        ),
        ("{{ ('a' * 99999999) ~ ('b' * 999999999) }}", "refused: MemoryError"),
        ("{{ 'a' * 1000001 }}", "refused: it writes 1000001 characters"),
    ],
)
def test_a_template_that_uses_up_time_or_memory_is_told_and_the_probe_goes_on(
    bench: Bench, source: Path, shipped: Path, template: str, told: str
) -> None:
    (shipped / "chat_template.jinja").write_text(template)

    said = wrong(probed(bench, source, shipped))

    assert set(said) == {"template"}
    assert told in said["template"][0]


def test_templates_that_render_nothing_are_not_compared(
    bench: Bench, source: Path, shipped: Path
) -> None:
    for directory in (source, shipped):
        (directory / "chat_template.jinja").write_text("{{ 1 / 0 }}")

    said = probed(bench, source, shipped)

    assert "renders no conversation" in str(said["probe.template"])


def test_an_end_that_is_no_token_is_told(bench: Bench, source: Path, shipped: Path) -> None:
    (shipped / "generation_config.json").write_text(json.dumps({"eos_token_id": [END, 11, -1]}))

    said = wrong(probed(bench, source, shipped))

    assert said["stop_tokens"][0].startswith("-1 (refused: OverflowError")


def test_a_tokenizer_that_panics_is_refused(bench: Bench, source: Path, shipped: Path) -> None:
    broken = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    edit(shipped / "tokenizer.json", lambda document: document.update(normalizer=broken))

    with pytest.raises(StepRefusedError, match=r"cannot be loaded: PanicException"):
        probed(bench, source, shipped)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("generation_config.json", '{"eos_token_id": ['),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "Other"}}'),
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    bench: Bench, source: Path, shipped: Path, file: str, text: str
) -> None:
    (shipped / file).write_text(text)

    with pytest.raises(StepRefusedError, match=r"not JSON|cannot be loaded"):
        probed(bench, source, shipped)
