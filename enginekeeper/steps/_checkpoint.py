"""A TensorRT-LLM checkpoint directory, opened: its config, its plan and its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _layer_plan import Plan, plan_engine
from _model_config import load_config
from _tensor_index import read_index
from safetensors import safe_open

if TYPE_CHECKING:
    import torch

WEIGHTS = "rank0.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A planned checkpoint whose tensors are all in memory, quantized as they were stored."""

    directory: Path
    plan: Plan
    tensors: dict[str, torch.Tensor]


def plan_checkpoint(directory: Path) -> Plan:
    """Reads config and tensor index, and assigns tensors to graphs; loads no weights."""
    return plan_engine(load_config(directory), read_index(directory / WEIGHTS))


def open_checkpoint(directory: Path) -> Checkpoint:
    """Plans a checkpoint and loads the tensors that the plan reads."""
    plan = plan_checkpoint(directory)
    wanted = {plan.embedding, *plan.head.tensor_names()}
    for layer in plan.layers:
        wanted |= layer.tensor_names()
    with safe_open(directory / WEIGHTS, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(wanted)}
    return Checkpoint(directory, plan, tensors)
