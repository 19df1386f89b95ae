"""`export`: what servers are told of an engine, from what was signed, and nothing for others."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from enginekeeper.building.bundle import OPTIONS
from enginekeeper.orchestration.publication import publish
from enginekeeper.serving.commands import Listening, trtllm_serve_bundle
from enginekeeper.serving.servers import servers
from enginekeeper.specs.releases import releases
from registry.bundles import write_directory
from registry.exchange import evidence_of
from registry.keys import EngineKey
from tests.factories.benches import Site, variants_of
from tests.factories.gpu_engines import gpu_key

Ek = Callable[..., Any]
CONFIG: dict[str, Any] = {
    "version": "1.2.1",
    "pretrained_config": {"architecture": "LlamaForCausalLM", "logits_dtype": "float16",
                          "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}},
    "build_config": {"max_batch_size": 64, "max_seq_len": 4096, "max_num_tokens": 8192,
                     "max_beam_width": 1, "plugin_config": {"use_paged_context_fmha": True}},
}  # fmt: skip

LIMITS = {"max_batch_size": 4, "max_num_tokens": 256, "max_seq_len": 128}


@pytest.fixture
def exported(site: Site, tmp_path: Path) -> Callable[..., Path]:
    """Publishes an engine with a config.json and writes it out with its evidence."""

    def made(
        config: object = CONFIG,
        *,
        beside: Mapping[str, object] = MappingProxyType({}),
        **key: Any,  # noqa: ANN401 - key fields
    ) -> Path:
        (variant,) = variants_of(tmp_path)
        built = site.built(variant, json.dumps([config, key, dict(beside)]).encode())
        for name, document in beside.items():
            (built.directory / name).write_text(json.dumps(document))
        (built.directory / "config.json").write_text(json.dumps(config))
        fields = {"tensorrt_llm": "1.2.1", "tensor_parallel": 2, **key}
        engine = publish(site.bench, replace(built, key=gpu_key(built.weights, **fields)), variant)
        registry, place = site.bench.registry, tmp_path / "engines" / engine.digest.short
        write_directory(registry.store, evidence_of(registry, engine), place)
        return place

    return made


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    return tmp_path / "tokenizer"


def test_triton_gets_a_model_repository(
    ek: Ek, exported: Callable[..., Path], tmp_path: Path
) -> None:
    place, output = exported(), tmp_path / "repository"
    said = ek("export", "triton", place, "--output", output, "--streaming", "--json")
    assert said.code == 0, said.err
    text = (output / "tensorrt_llm" / "config.pbtxt").read_text()
    assert (output / "tensorrt_llm" / "1").is_dir()
    for line in (
        'backend: "tensorrtllm"', "max_batch_size: 64",
        "model_transaction_policy { decoupled: true }",
        f'key: "gpt_model_path" value {{ string_value: "{place}/engine" }}',
        'key: "enable_chunked_context" value { string_value: "true" }',
        'output [ { name: "context_logits" data_type: TYPE_FP16 dims: [ -1, -1 ] } ]',
    ):  # fmt: skip
        assert line in text
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")
    command = said.json["command"]
    assert command[:4] == ["ek", "run-check", f"{place}/engine", "--"]
    assert command[4:8] == ["mpirun", "--allow-run-as-root", "-n", "1"]
    assert command.count(f"--model-repository={output}") == 2
    assert json.loads((output / "command.json").read_text()) == command


def test_every_input_of_triton_is_there_once(ek: Ek, exported: Callable[..., Path]) -> None:
    text = ek("export", "triton", exported(), "--json").json["files"]["tensorrt_llm/config.pbtxt"]
    names = re.findall(r'input \[ \{ name: "(\w+)"', text)
    assert names == [one.name for one in servers().triton.inputs]
    assert len(set(names)) == len(names)
    required = re.findall(r'input \[ \{ name: "(\w+)"(?!.*optional: true).*\]', text)
    assert required == ["input_ids", "input_lengths", "request_output_len"]


@pytest.mark.parametrize(("release", "backend"), [("1.2.1", ["--backend", "trt"]), ("0.18.2", [])])
def test_trtllm_serve_is_told_what_its_release_needs(
    ek: Ek, exported: Callable[..., Path], tokenizer: Path, release: str, backend: list[str]
) -> None:
    place = exported({**CONFIG, "version": release}, tensorrt_llm=release)
    said = ek("export", "trtllm-serve", place, "--tokenizer", tokenizer, "--port", 9000)
    words = shlex.split(said.out)
    assert words == [
        "ek", "run-check", f"{place}/engine", "--", "trtllm-serve", "{engine}", "--tokenizer",
        str(tokenizer), *backend, "--host", "127.0.0.1", "--port", "9000", "--max_batch_size", "64",
        "--max_num_tokens", "8192", "--max_seq_len", "4096", "--max_beam_width", "1", "--tp_size",
        "2", "--pp_size", "1", "--kv_cache_free_gpu_memory_fraction", "0.9",
    ]  # fmt: skip
    assert said.err == ""


def test_what_is_not_verified_is_said(
    ek: Ek, exported: Callable[..., Path], tokenizer: Path
) -> None:
    place = exported({**CONFIG, "version": "1.0.0"}, tensorrt_llm="1.0.0")
    said = ek("export", "trtllm-serve", place, "--tokenizer", tokenizer)
    assert (said.code, "not verified for 1.0.0" in said.err) == (0, True)


def test_every_release_that_builds_engines_has_a_row() -> None:
    rows = [version for row in servers().trtllm_serve for version in row.releases]
    building = [one.version for one in releases().values() if one.builds_engines]
    assert sorted(rows) == sorted(building)


def test_vllm_is_started_on_a_quantized_checkpoint_only(
    ek: Ek, exported: Callable[..., Path]
) -> None:
    checkpoint = exported({"architectures": ["LlamaForCausalLM"]}, builder="trtllm_pytorch")
    said = ek("export", "vllm", checkpoint, "--name", "llama", "--json")
    assert said.json["command"][4:7] == ["vllm", "serve", "{engine}"]
    assert said.json["command"][-2:] == ["--served-model-name", "llama"]
    refused = ek("export", "vllm", exported(), "--json")
    assert (refused.code, "export triton" in refused.err) == (3, True)
    assert ek("export", "triton", checkpoint).code == 3


def test_a_bundle_is_served_by_the_pytorch_backend_with_its_own_options(
    ek: Ek, exported: Callable[..., Path]
) -> None:
    model = {"architectures": ["LlamaForCausalLM"]}
    checkpoint = exported(model, builder="trtllm_pytorch", beside={OPTIONS: LIMITS})

    said = ek("export", "trtllm-serve", checkpoint, "--json")

    assert said.json["command"][4:8] == ["trtllm-serve", "{engine}", "--backend", "pytorch"]
    assert said.json["command"][-2:] == ["--extra_llm_api_options", f"{{engine}}/{OPTIONS}"]
    assert ek("export", "trtllm-serve", exported({}, builder="trtllm_pytorch")).code == 3
    unknown = {OPTIONS: {**LIMITS, "max_beam_width": 4}}
    other = ek("export", "trtllm-serve", exported(model, builder="trtllm_pytorch", beside=unknown))
    assert (other.code, "max_beam_width" in other.err) == (3, True)


def test_the_options_of_a_bundle_are_those_it_was_warmed_up_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / OPTIONS).write_text(json.dumps({**LIMITS, "kv_cache_config": {"dtype": "fp8"}}))
    hard = {"builder": "trtllm_pytorch", "weights": "w", "tensor_parallel": 2}
    key = EngineKey({**hard, "tensorrt_llm": "1.2.1"})

    command = trtllm_serve_bundle(tmp_path, key, "{engine}", Listening())

    assert command[-2:] == ["--extra_llm_api_options", "{engine}/llm_api_options.yaml"]
    assert command[command.index("--tp_size") + 1] == "2"
    assert "--kv_cache_free_gpu_memory_fraction" not in command


def _without(section: str, name: str) -> dict[str, Any]:
    return {**CONFIG, section: {key: one for key, one in CONFIG[section].items() if key != name}}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (_without("build_config", "max_batch_size"), "max_batch_size"),
        ({**CONFIG, "build_config": {**CONFIG["build_config"], "max_seq_len": "4096"}}, "max_seq"),
        ({**CONFIG, "version": "1.1.0"}, "another release"),
        ({"version": "1.2.1"}, "build_config"),
    ],
)
def test_an_engine_that_no_server_could_load_is_refused(
    ek: Ek, exported: Callable[..., Path], tmp_path: Path, config: object, words: str
) -> None:
    said = ek("export", "triton", exported(config), "--output", tmp_path / "out", "--json")
    assert (said.code, words in said.err) == (3, True), said.err
    assert not (tmp_path / "out").exists()


STRIPPED = {**CONFIG, "build_config": {**CONFIG["build_config"], "use_strip_plan": True}}


def test_triton_loads_a_stripped_engine_from_where_it_was_refitted(
    ek: Ek, exported: Callable[..., Path]
) -> None:
    place = exported(STRIPPED)
    whole = place.parent.parent / "refitted" / place.name
    whole.mkdir(parents=True)

    said = ek("export", "triton", place, "--json")

    assert said.code == 0, said.err
    text = said.json["files"]["tensorrt_llm/config.pbtxt"]
    assert f'key: "gpt_model_path" value {{ string_value: "{whole}" }}' in text
    assert said.json["command"][:3] == ["ek", "run-check", f"{place}/engine"]


def test_a_stripped_engine_that_nobody_refitted_here_is_not_told_of(
    ek: Ek, exported: Callable[..., Path], tmp_path: Path
) -> None:
    said = ek("export", "triton", exported(STRIPPED), "--output", tmp_path / "out")

    assert (said.code, "has no weights in it" in said.err) == (4, True), said.err
    assert "enginekeeper pull" in said.err
    assert not (tmp_path / "out").exists()


def test_a_stripped_engine_elsewhere_is_no_place_to_load_it_from(
    ek: Ek, exported: Callable[..., Path]
) -> None:
    place = exported(STRIPPED)
    (place.parent.parent / "refitted" / place.name).mkdir(parents=True)

    said = ek("export", "triton", place, "--place", "/models/current")

    assert (said.code, "--place /models/current" in said.err) == (3, True), said.err


def test_trtllm_serve_is_told_of_a_stripped_engine_as_of_any(
    ek: Ek, exported: Callable[..., Path], tokenizer: Path
) -> None:
    said = ek("export", "trtllm-serve", exported(STRIPPED), "--tokenizer", tokenizer, "--json")

    assert (said.code, "{engine}" in said.json["command"]) == (0, True), said.err


def test_a_release_without_the_backend_is_refused(
    ek: Ek, exported: Callable[..., Path], tokenizer: Path
) -> None:
    place = exported({**CONFIG, "version": "1.3.0rc22"}, tensorrt_llm="1.3.0rc22")
    assert ek("export", "trtllm-serve", place, "--tokenizer", tokenizer).code == 3


def test_nothing_is_read_of_an_engine_that_does_not_verify(
    ek: Ek, exported: Callable[..., Path]
) -> None:
    place = exported()
    config = place / "engine" / "config.json"
    config.chmod(0o644)
    config.write_text("not even JSON")
    assert ek("export", "triton", place).code == 11
    assert ek("export", "triton", place / "engine" / "..").code == 11


def test_a_directory_that_is_there_is_left_alone(
    ek: Ek, exported: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    assert ek("export", "triton", exported(), "--output", tmp_path / "out").code == 3
    assert ek("export", "triton", tmp_path / "out").code == 4


def test_a_place_elsewhere_is_told_to_everybody(
    ek: Ek, exported: Callable[..., Path], tokenizer: Path
) -> None:
    place = exported()
    said = ek("export", "triton", place, "--place", "/models/a/engine", "--json").json
    assert '"/models/a/engine"' in said["files"]["tensorrt_llm/config.pbtxt"]
    assert said["command"][2] == "/models/a/engine"
    assert ek("export", "triton", place, "--place", 'a"b').code == 3
    served = ek(
        "export", "trtllm-serve", place, "--place", "/m", "--tokenizer", tokenizer, "--json"
    )
    assert served.json["command"][2:6] == ["/m", "--", "trtllm-serve", "/m"]


def test_without_a_tokenizer_trtllm_serve_is_not_started(
    ek: Ek, exported: Callable[..., Path]
) -> None:
    assert ek("export", "trtllm-serve", exported()).code == 3
