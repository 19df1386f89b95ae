"""The double's timing cache: a list of kernels, bound to a device and a version of TensorRT.

It does what the source of TensorRT-LLM says (tensorrt_llm/builder.py of 1.2.1): a file that is not
there is passed over; `set_timing_cache` is asked not to ignore a mismatch, and what it answers is
not looked at; `save_timing_cache` finds no cache then, and the build ends by an assertion. That
TensorRT refuses a cache of another device is in NvInfer.h; its words for it were not seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginekeeper.building.simulated.plan_file import Version

_MAGIC = b"SIMULATED TIMING CACHE\n"

Say = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Device:
    """What TensorRT's header of a cache binds it to."""

    product: str
    sm: int
    tensorrt: Version

    def header(self) -> list[Any]:
        """Returns it as the file has it."""
        return [self.product, self.sm, list(self.tensorrt)]


@dataclass
class TimingCache:
    """What was measured until now; `usable` is whether TensorRT takes and keeps it."""

    device: Device
    say: Say
    usable: bool = True
    kernels: set[str] = field(default_factory=set)

    @classmethod
    def of_argument(cls, path: str | None, device: Device, say: Say) -> TimingCache:
        """Reads the file that --input_timing_cache names, if it is there."""
        cache = cls(device, say)
        if path is None:
            return cache
        if not Path(path).exists():
            say("TRT-LLM", "W", "Invalid timing cache, using freshly created one")
            return cache
        content = Path(path).read_bytes()
        if not content.startswith(_MAGIC):  # create_timing_cache gives none: a fresh one is made
            return cache
        document = json.loads(content.removeprefix(_MAGIC))
        cache.usable = document["device"] == device.header()
        cache.kernels = set(document["kernels"]) if cache.usable else set()
        return cache

    def measure(self, model: dict[str, Any], arguments: argparse.Namespace) -> None:
        """Adds the kernels that a model of this shape takes."""
        kept = "will be stored" if self.usable else "will not be stored"
        where = "Global" if self.usable else "Local"
        self.say("TRT", "I", f"{where} timing cache in use. Profiling results in this builder pass "
                 f"{kept}.")  # fmt: skip
        quantization = (model.get("quantization") or {}).get("quant_algo")
        tokens = arguments.max_num_tokens
        for name in ("hidden_size", "intermediate_size", "vocab_size"):
            self.kernels.add(f"gemm {name}={model.get(name)} {quantization} tokens={tokens}")

    def save(self, path: Path) -> None:
        """Writes the cache; without one the tool ends by an assertion."""
        if not self.usable:
            self.say("TRT-LLM", "W",
                     "No timing cache found in the given builder config, skip saving.")  # fmt: skip
            raise AssertionError("Failed to save timing cache.")
        document = {"device": self.device.header(), "kernels": sorted(self.kernels)}
        path.write_bytes(_MAGIC + json.dumps(document, sort_keys=True).encode())
        self.say("TRT", "I", f"Serialized {len(self.kernels)} timing cache entries")
        self.say("TRT-LLM", "I", f"Timing cache serialized to {path}")
