"""What the static audits cost: against reading the files and dequantizing them once, and in memory.

    python benchmarks/audit_speed.py MODEL CHECKPOINT...       one line for each checkpoint
    python benchmarks/audit_speed.py --torch PYTHON MODEL CHECKPOINT...   beside torch's pass
    python benchmarks/audit_speed.py --cold MODEL CHECKPOINT...   from the disk
    python benchmarks/audit_speed.py --synthetic DIRECTORY     an 8B-shaped pair, written there

Two passes stand beside the audits, and both read source and checkpoint, widen or dequantize every
tensor to float32, and look at none. *Torch* is what anybody writes: `load_file` of safetensors, and
torch on whole tensors (`steps/once_through.py`; PYTHON is the modelopt toolchain's). *In chunks* is
the least that is known here: chunk by chunk, none of which leaves the processor's cache, in one
process. Audits and torch use the cores that they are given (`taskset -c 0` gives one). Times are
wall time; with `--cold` files are dropped from the page cache before every pass. Memory is the
largest anonymous size of a new process, interpreter and children included, sampled every 10 ms;
maps of files are the kernel's to drop.

The synthetic pair has the shapes of Llama-3.1-8B (hidden 4096, inner 14336, 32 heads of which 8 for
keys, 128,256 rows in both tables) and one layer, INT8 weight-only; its weights are random blocks
of 256 rows, repeated. It is audited as it is, and with every weight of the head moved, so that the
sums of the largest tensor are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from enginekeeper.faults.campaign import label
from enginekeeper.validation.audits import audit
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.numerics.formats import narrow, widen
from enginekeeper.validation.numerics.linears import read_linear
from enginekeeper.validation.numerics.mapping import Geometry, layer_linears
from enginekeeper.validation.numerics.recipes import quantize_rows, recipe_for
from enginekeeper.validation.numerics.reproduction import row_chunks
from enginekeeper.validation.numerics.working_memory import keep_freed_memory
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import PlannedTensor, write_tensors

Array = np.ndarray[Any, Any]

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 1,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
_BLOCK = 256
"""Rows that are random; the others repeat them."""

_PASSES = 5
"""Of each side, in turn: others on the machine make a pass slower, and none faster."""

_COLUMNS = (
    "torch, s", "in chunks, s", "audits, s", "audits / torch", "audits / in chunks",
    "anonymous memory, MB", "findings",
)  # fmt: skip


def once_through(model: Path, checkpoint: Path) -> None:
    """Reads everything and turns it into float32."""
    source, stored = SourceModel.open(model), Checkpoint.open(checkpoint)
    for tensor in source.tensors.values():
        columns = tensor.shape[-1]
        for start, stop in row_chunks(tensor.shape[0], columns):
            widen(tensor.rows(start, stop))
    for file in stored.ranks:
        for name in file:
            module = name.removesuffix(".weight")
            if name.endswith(".weight") and len(file[name].shape) > 1:
                linear = read_linear(file, module)
                for start, stop in row_chunks(linear.rows, linear.columns):
                    rows = linear.dequantize(start, stop)
                    if linear.prequant is not None:
                        rows *= linear.prequant  # or it is no weight of the source's


def seconds(work: Callable[[], object]) -> float:
    """Returns wall seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def memory(work: Callable[[], object]) -> float:
    """Returns how many MB of anonymous memory a new process and its children have at most.

    It is looked at from outside: with a thread that looks, audits would work alone.
    """
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    largest = 0
    while process.is_alive():
        largest = max(largest, _anonymous(process.pid))
        time.sleep(0.01)
    if process.exitcode:
        sys.exit(f"the audit in a process of its own ended with {process.exitcode}")
    return largest / 1024


def _anonymous(pid: int | None) -> int:
    """Anonymous resident memory in KB of a process and its children; 0 of one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = int((status.partition("RssAnon:")[2].split() or ["0"])[0])
    return own + sum(_anonymous(int(child)) for child in children)


def drop(*directories: Path) -> None:
    """Has the kernel forget what it read of the weights' files (clean pages; posix_fadvise(2))."""
    for path in (path for one in directories for path in one.glob("*.safetensors")):
        with path.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_torch(python: Path, model: Path, checkpoint: Path, passes: int, *, cold: bool) -> float:
    """Returns the wall seconds of torch's fastest pass."""
    step = Path(__file__).parent / "steps" / "once_through.py"
    found = []
    for _ in range(passes if cold else 1):
        if cold:
            drop(model, checkpoint)
        command = [python, step, str(1 if cold else passes), model, checkpoint]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(float(said.stdout))
    return min(found)


def report(
    name: str,
    model: Path,
    checkpoint: Path,
    passes: int = _PASSES,
    *,
    cold: bool = False,
    torch: Path | None = None,
) -> None:
    """Prints one row: of some passes each the fastest."""
    whole = in_torch(torch, model, checkpoint, passes, cold=cold) if torch else None
    keep_freed_memory()  # for both, or the first would pay for pages that the second keeps
    sides = (partial(once_through, model, checkpoint), partial(audit, model, checkpoint))
    found: list[list[float]] = [[], []]
    for _ in range(passes):
        for side, times in zip(sides, found, strict=True):
            if cold:
                drop(model, checkpoint)
            times.append(seconds(side))
    bare, full = (min(times) for times in found)
    findings = sum(len(one.findings) for one in audit(model, checkpoint))
    beside = (f"{whole:.2f}", f"{full / whole:.1f}") if whole else ("", "")
    print(
        f"| {name} | {beside[0]} | {bare:.2f} | {full:.2f} | {beside[1]} | {full / bare:.1f} | "
        f"{memory(sides[1]):.0f} | {findings} |",
        flush=True,
    )


def write_synthetic(directory: Path, *, moved_head: bool) -> tuple[Path, Path]:
    """Writes the pair and returns source and checkpoint."""
    model, checkpoint = directory / "source", directory / ("moved" if moved_head else "healthy")
    source_config = Path(model / "config.json")
    if not source_config.exists():
        model.mkdir(parents=True, exist_ok=True)
        write_tensors(model / "model.safetensors", _source_tensors())
        source_config.write_text(json.dumps(LLAMA_8B))  # last: it says that the source is whole
    checkpoint.mkdir(exist_ok=True)
    geometry = Geometry.of(SourceModel.open(model).config)
    (checkpoint / "config.json").write_text(json.dumps(_checkpoint_config(geometry)))
    tensors = _checkpoint_tensors(SourceModel.open(model), geometry, moved_head=moved_head)
    write_tensors(checkpoint / "rank0.safetensors", list(tensors))
    return model, checkpoint


def _block(columns: int, seed: int) -> Array:
    values = np.random.default_rng(seed).standard_normal((_BLOCK, columns), np.float32)
    return narrow(values / np.sqrt(np.float32(columns)), "bfloat16")


def _repeated(block: Array, rows: int) -> Iterator[Array]:
    for start in range(0, rows, len(block)):
        yield block[: min(len(block), rows - start)]


def _source_tensors() -> list[PlannedTensor]:
    size: dict[str, Any] = LLAMA_8B
    hidden, inner, key = size["hidden_size"], size["intermediate_size"], 1024
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens": (size["vocab_size"], hidden),
        "lm_head": (size["vocab_size"], hidden),
        f"{layer}.self_attn.q_proj": (hidden, hidden),
        f"{layer}.self_attn.k_proj": (key, hidden),
        f"{layer}.self_attn.v_proj": (key, hidden),
        f"{layer}.self_attn.o_proj": (hidden, hidden),
        f"{layer}.mlp.gate_proj": (inner, hidden),
        f"{layer}.mlp.up_proj": (inner, hidden),
        f"{layer}.mlp.down_proj": (hidden, inner),
    }
    tensors = [
        PlannedTensor(f"{name}.weight", "BF16", (rows, columns), _repeated(
            _block(columns, seed), rows))
        for seed, (name, (rows, columns)) in enumerate(shapes.items())
    ]  # fmt: skip
    ones = narrow(np.ones(hidden, np.float32), "bfloat16")
    norms = ("model.norm", f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm")
    return [*tensors, *(PlannedTensor.of(f"{n}.weight", ones) for n in norms)]


def _checkpoint_config(geometry: Geometry) -> dict[str, Any]:
    return {
        "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "num_hidden_layers": 1,
        "num_attention_heads": geometry.heads, "num_key_value_heads": geometry.kv_heads,
        "hidden_size": geometry.hidden, "head_size": geometry.head_size,
        "intermediate_size": geometry.intermediate, "norm_epsilon": 1e-5,
        "vocab_size": geometry.vocabulary, "max_position_embeddings": 8192, "hidden_act": "silu",
        "position_embedding_type": "rope_gpt_neox", "rotary_base": 500000.0,
        "share_embedding_table": False,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": "W8A16", "exclude_modules": ["lm_head"]},
    }  # fmt: skip


def _checkpoint_tensors(
    source: SourceModel, geometry: Geometry, *, moved_head: bool
) -> Iterator[PlannedTensor]:
    recipe = recipe_for("W8A16")
    for place in layer_linears(0, geometry):
        weight = np.concatenate([source.rows(f"{part.module}.weight") for part in place.parts])
        made = quantize_rows(recipe, weight, 0.0, "bfloat16")
        codes = made.codes.astype(np.int8)
        yield PlannedTensor.of(f"{place.name}.weight", codes)
        scales = made.scales.reshape(-1)
        yield PlannedTensor.of(f"{place.name}.weights_scaling_factor", scales)
    layer, shape = "transformer.layers.0", (geometry.vocabulary, geometry.hidden)
    tables = {"transformer.vocab_embedding": "model.embed_tokens", "lm_head": "lm_head"}
    for name, module in tables.items():
        block = np.array(source.tensor(f"{module}.weight").rows(0, _BLOCK))
        if moved_head and name == "lm_head":
            block = narrow(block.astype(np.float32) * np.float32(1.01), "bfloat16")
        yield PlannedTensor(f"{name}.weight", "BF16", shape, _repeated(block, shape[0]))
    ones = narrow(np.ones(geometry.hidden, np.float32), "bfloat16")
    for name in ("transformer.ln_f", f"{layer}.input_layernorm", f"{layer}.post_layernorm"):
        yield PlannedTensor.of(f"{name}.weight", ones)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--synthetic", type=Path)
    parser.add_argument("--passes", type=int, default=_PASSES)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--torch", type=Path)
    options = parser.parse_args()
    print(f"| checkpoint | {' | '.join(_COLUMNS)} |")
    print(f"|---|{'--:|' * len(_COLUMNS)}")
    for checkpoint in options.checkpoints:
        name = label(Checkpoint.open(checkpoint))
        how = {"cold": options.cold, "torch": options.torch}
        report(name, options.model, checkpoint, options.passes, **how)
    if options.synthetic:
        for moved in (False, True):
            model, checkpoint = write_synthetic(options.synthetic, moved_head=moved)
            name = f"8B-shaped, one layer{', every weight of the head 1 % off' if moved else ''}"
            report(name, model, checkpoint, options.passes)


if __name__ == "__main__":
    main()
