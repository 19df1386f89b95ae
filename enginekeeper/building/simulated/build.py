"""A stand-in for `trtllm-build`: refuses what a release refuses, in its words; compiles nothing.

It parses its arguments as the release does, checks what the release checks before and while it
builds (tensorrt_llm/commands/build.py, builder.py, plugin/plugin.py), changes what it is asked for
as the release does, and writes an engine directory of the same form. Its plans have the header of a
plan and no kernels; its config.json says `"simulated": true`. It believes in the GPU of the
simulated fleet that CUDA_VISIBLE_DEVICES names. The file `double.json` beside the tool, if there
is one, tells it of another compute capability, to wait, or how to fail.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from enginekeeper.building.simulated.fleet import gpu_of_uuid
from enginekeeper.building.simulated.parser import parser_of, plugin_fields
from enginekeeper.building.simulated.plan_file import (
    PlanNote,
    Version,
    sha256_of,
    tensor_names,
    write_plan,
)
from enginekeeper.building.simulated.timing import Device, TimingCache

ARCHITECTURES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "QWenForCausalLM", "Qwen2ForCausalLM"}
)
"""A few of those that every release has a definition for."""

TENSORRT: dict[str, Version] = {
    "0.18.2": (10, 9, 0, 34), "0.19.0": (10, 9, 0, 34), "0.20.0": (10, 10, 0, 31),
    "0.21.0": (10, 11, 0, 33), "1.0.0": (10, 11, 0, 33), "1.1.0": (10, 13, 3, 9),
    "1.2.0": (10, 14, 1, 48), "1.2.1": (10, 14, 1, 48),
}  # fmt: skip
"""From NVIDIA's requirements and the Triton images' release notes."""

_SM89, _SM100, _SM120 = 89, 100, 120
_INTEGER = frozenset({"W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ", "W8A16_GPTQ", "W4A16_GPTQ"})
_FP8_ATTENTION = frozenset({"FP8", "W4A8_AWQ", "NVFP4"})


_MODES: dict[str | None, int] = {
    None: 1, "draft_tokens_external": 2, "medusa": 4, "lookahead_decoding": 8,
    "explicit_draft_tokens": 16, "eagle": 32,
}  # fmt: skip
"""SpeculativeDecodingMode of modeling_utils.py, an IntFlag: JSON has the number."""


def main(version: str, settings: Path, argv: list[str] | None = None) -> None:
    """Runs as the tool of a release would."""
    says = settings_of(settings).get("says", version)
    _print(greeting(says))
    arguments = parser_of(version).parse_args(argv)
    double = _Double(version, arguments, settings_of(settings))
    double.run()


def greeting(version: str) -> str:
    """Returns the first line of a release's programs; it was spelled anew with 1.0.0."""
    name = "TensorRT-LLM" if version.startswith("0.") else "TensorRT LLM"
    return f"[TensorRT-LLM] {name} version: {version}"


def settings_of(path: Path) -> dict[str, Any]:
    """Returns what the double is told of its GPU and of how it is to end."""
    settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return settings


class _Double:
    def __init__(
        self, version: str, arguments: argparse.Namespace, settings: dict[str, Any]
    ) -> None:
        self.version = version
        self.release = tuple(int(part) for part in version.split(".")[:2])
        self.arguments = arguments
        self.settings = settings
        gpu = gpu_of_uuid(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self.product = "no GPU of the fleet" if gpu is None else gpu.product
        known = 90 if gpu is None else _sm(str(gpu.compute_capability))
        self.sm = int(settings.get("sm", known))

    def run(self) -> None:
        """Goes through the tool's own stages, in its order."""
        self._say("W", "Option --gather_generation_logits is deprecated")
        arguments = self.arguments
        if arguments.gather_context_logits and arguments.max_draft_len > 0:
            raise RuntimeError(
                "Gather context logits is not support with draft len > 0. If want to get the "
                "accepted tokens' logits from target model, please just enable "
                "gather_generation_logits"
            )
        output = Path(arguments.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        plugins = self._plugins()
        self._refuse_plugins_on_100(plugins)
        folder = arguments.checkpoint_dir or arguments.model_config
        model = _model_of(Path(folder) / "config.json")
        if arguments.multiple_profiles == "enable" and arguments.opt_num_tokens is not None:
            raise RuntimeError(
                "multiple_profiles is enabled, while opt_num_tokens is set. "
                "They are not supposed to be working in the same time for now."
            )
        self._wait_as_told()
        self._end_as_told()
        self._build(model, plugins, Path(folder), output)
        self._say("I", "Build phase peak memory: 5800.25 MB, children: 0.00 MB")
        self._say("I", "Total time of building all engines: 00:00:01")

    def _plugins(self) -> dict[str, Any]:
        """Returns the plugin config as the tool makes it of its arguments."""
        spelled = {"enable": True, "disable": None}
        config = {}
        for name, default in plugin_fields(self.version).items():
            value = getattr(self.arguments, name)
            config[name] = spelled.get(value, value)
            if config[name] is None and isinstance(default, bool):
                config[name] = False
            prefix = "PluginConfig." if self.release >= (1, 2) else ""
            self._say("I", f"Set {prefix}{name} to {config[name]}.")
        return config | {"manage_weights": self.arguments.fast_build}

    def _refuse_plugins_on_100(self, plugins: dict[str, Any]) -> None:
        unsupported = (
            "gemm_swiglu_plugin", "fp8_rowwise_gemm_plugin", "low_latency_gemm_plugin",
            "low_latency_gemm_swiglu_plugin", "bert_context_fmha_fp32_acc",
        )  # fmt: skip
        for name in unsupported if self.sm == _SM100 else ():
            value = plugins.get(name)
            if value is not None and value is not False:
                raise NotImplementedError(f"{name}={value} is not supported on SM {self.sm}.")

    def _wait_as_told(self) -> None:
        """Waits while the file is there that the settings name: real builds take long."""
        hold = self.settings.get("hold")
        if hold is not None:
            self._say("I", "SIMULATED: waiting, as told")
        while hold is not None and Path(hold).exists():
            time.sleep(0.05)

    def _end_as_told(self) -> None:
        """Ends with the log of a failure of the corpus, if the settings hold one."""
        if lines := self.settings.get("fail"):
            _print("\n".join(lines))
            sys.exit(int(self.settings.get("status", 1)))

    def _build(
        self, model: dict[str, Any], plugins: dict[str, Any], folder: Path, output: Path
    ) -> None:
        self._check_model(model, plugins)
        lora = self._lora_config(plugins)
        ranks = (model.get("mapping") or {}).get("world_size", 1)
        for rank in range(ranks):
            if not (folder / f"rank{rank}.safetensors").is_file():
                raise FileNotFoundError(f"{folder}/rank{rank}.safetensors")
            timing = self._timing_cache()
            self._say("I", "Build TensorRT engine Unnamed Network 0")
            timing.measure(model, self.arguments)
            if rank == 0:
                timing.save(Path(self.arguments.output_timing_cache))
            if rank in self.settings.get("leave_out", []):
                continue
            self._write_plan(output / f"rank{rank}.engine", folder / f"rank{rank}.safetensors")
            if plugins["manage_weights"]:
                self._write_managed_weights(folder, output, rank)
        if (folder / "quant_cfg.json").is_file():
            shutil.copyfile(folder / "quant_cfg.json", output / "quant_cfg.json")
        document = {
            "version": self.version,
            "pretrained_config": self._pretrained_config(model),
            "build_config": {**self._build_config(model, plugins), "lora_config": lora},
            "simulated": True,
            "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        (output / "config.json").write_text(json.dumps(document, indent=1))

    def _pretrained_config(self, model: dict[str, Any]) -> dict[str, Any]:
        """Returns the model's config with what the tool writes into it (build_model)."""
        config = {name: it for name, it in model.items() if name != "rank"}
        if self.arguments.logits_dtype is not None:
            config["logits_dtype"] = self.arguments.logits_dtype
        if (per_node := getattr(self.arguments, "gpus_per_node", None)) is not None:
            config["mapping"] = {**(config.get("mapping") or {}), "gpus_per_node": per_node}
        return config

    def _lora_config(self, plugins: dict[str, Any]) -> dict[str, Any]:
        """Returns the LoraConfig: the class's own defaults unless there is a lora_plugin."""
        config = {"lora_dir": [], "lora_ckpt_source": "hf", "max_lora_rank": 64}
        config |= {"lora_target_modules": [], "trtllm_modules_to_hf_modules": {}}
        if plugins["lora_plugin"] is None:
            return config
        names = ("lora_dir", "lora_ckpt_source", "max_lora_rank", "lora_target_modules")
        config |= {name: it for name in names if (it := getattr(self.arguments, name)) is not None}
        if not config["lora_dir"] and not config["lora_target_modules"]:  # lora_manager.py
            raise ValueError(
                "lora_target_modules is empty. Please specify lora_target_modules or provide "
                "lora_dir to infer lora_target_modules."
            )
        return config

    def _write_managed_weights(self, folder: Path, output: Path, rank: int) -> None:
        """Writes the rank's weights beside its plan, too.

        The release keeps those of its linears there, and only there.
        """
        place = output / f"rank{rank}_managed_weights.safetensors"
        source = folder / f"rank{rank}.safetensors"
        count = len(tensor_names(source))
        if count == 0:
            return
        self._say("I", f"Serializing {count} managed weights to {place}...")
        shutil.copyfile(source, place)

    def _timing_cache(self) -> TimingCache:
        """Returns the cache that a rank builds with, as builder.py makes it of the argument."""
        device = Device(self.product, self.sm, TENSORRT[self.version])
        return TimingCache.of_argument(self.arguments.input_timing_cache, device, self._say_as)

    def _write_plan(self, place: Path, weights: Path) -> None:
        note = PlanNote(
            device=self.product,
            compute_capability=f"{self.sm // 10}.{self.sm % 10}",
            weights=sha256_of(weights),
            names=tensor_names(weights),
            stripped=bool(self.arguments.strip_plan),
        )
        write_plan(place, TENSORRT[self.version], note, weights)

    def _check_model(self, model: dict[str, Any], plugins: dict[str, Any]) -> None:
        architecture = model["architecture"]
        algorithm = (model.get("quantization") or {}).get("quant_algo")
        self._refuse_streamingllm(architecture, plugins)
        if plugins["pp_reduce_scatter"] and architecture != "MixtralForCausalLM":
            raise AssertionError("PP reduce scatter is only supported in the mixtral model.")
        if not _SM100 <= self.sm < _SM120 or algorithm is None:
            return
        if algorithm in _INTEGER:
            raise NotImplementedError("INT8/INT4 quantization is not supported on SM>=100.")
        if algorithm.startswith("W8A8_SQ"):
            raise NotImplementedError("SmoothQuant is not supported on SM>=100.")
        if algorithm == "FP8_PER_CHANNEL_PER_TOKEN":
            raise NotImplementedError(
                "Per-channel or per-token scaling is not supported on SM>=100."
            )

    def _refuse_streamingllm(self, architecture: str, plugins: dict[str, Any]) -> None:
        """Stops as build.py does: at 65f1d153 (1.2) always, at 008b2b8d (1.0) for other models.

        When the words changed was not seen: 1.1 is taken to be as 1.0 was.
        """
        if not plugins["streamingllm"]:
            return
        if self.release >= (1, 2):
            raise AssertionError(
                "StreamingLLM is no longer supported because attention sink cannot work with the "
                "non-cyclic kv cache kernel & runtime changes."
            )
        if architecture != "LlamaForCausalLM":
            raise AssertionError("StreamingLLM is only supported in the llama model.")

    def _build_config(self, model: dict[str, Any], plugins: dict[str, Any]) -> dict[str, Any]:
        """Returns the effective config: what was asked for, as far as the release keeps to it."""
        asked, effective = vars(self.arguments), dict(plugins)
        quantization = model.get("quantization") or {}
        if (model.get("mapping") or {}).get("tp_size", 1) == 1:
            effective["reduce_fusion"] = False
        fp8_keys = quantization.get("kv_cache_quant_algo") == "FP8"
        if not (fp8_keys and quantization.get("quant_algo") in _FP8_ATTENTION and self.sm >= _SM89):
            effective["use_fp8_context_fmha"] = False
        if quantization.get("quant_algo") == "NVFP4" and effective["gemm_plugin"] is None:
            effective["gemm_plugin"] = "nvfp4"
        kept = (
            "max_batch_size", "max_input_len", "max_beam_width", "max_num_tokens",
            "opt_num_tokens", "max_prompt_embedding_table_size", "max_encoder_input_len",
            "gather_context_logits", "profiling_verbosity", "enable_debug_output",
            "weight_sparsity", "weight_streaming", "monitor_memory", "max_draft_len",
            "input_timing_cache", "output_timing_cache",
        )  # fmt: skip
        longest = asked["max_seq_len"] or model.get("max_position_embeddings") or 2048
        return {
            **{name: asked[name] for name in kept},
            "max_seq_len": longest + asked["max_draft_len"],
            "kv_cache_type": asked.get("kv_cache_type", "PAGED"),
            "speculative_decoding_mode": _MODES[asked["speculative_decoding_mode"]],
            "use_strip_plan": asked["strip_plan"],
            "strongly_typed": True,
            "plugin_config": effective,
        }

    def _say(self, level: str, text: str) -> None:
        self._say_as("TRT-LLM", level, text)

    def _say_as(self, who: str, level: str, text: str) -> None:
        _print(f"[11/26/2026-03:00:00] [{who}] [{level}] {text}")


def _model_of(path: Path) -> dict[str, Any]:
    """Reads a checkpoint's config as PretrainedConfig.from_dict does: by MODEL_MAP[architecture].

    So a model without a definition ends in a KeyError (NVIDIA/TensorRT-LLM#2141), and the assertion
    of build.py, which has words for it, is not reached.
    """
    model: dict[str, Any] = json.loads(path.read_text())
    if (architecture := model["architecture"]) not in ARCHITECTURES:
        raise KeyError(architecture)
    return model


def _sm(compute_capability: str) -> int:
    major, minor = compute_capability.split(".")
    return int(major) * 10 + int(minor)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def command_line() -> NoReturn:
    """Runs from the command line: RELEASE SETTINGS ARGUMENTS...; SETTINGS need not be there."""
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    sys.exit(0)


if __name__ == "__main__":
    command_line()
