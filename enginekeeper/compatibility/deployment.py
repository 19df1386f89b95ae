"""Whether an engine can work in an environment at all; the function the registry's gate is given.

Rules:

- `cpu-architecture-features`: an engine of the embedded builder needs every CPU flag it was
  compiled for; without one it dies of an illegal instruction (torch/_inductor/cpu_vec_isa.py);
- `torch-version`: compiled graphs load only into the torch that compiled them (the AOTInductor
  ABI is not promised across releases);
- `wrong-kind`: a CPU engine does not run on a GPU, nor the other way round;
- `gpu-product`, `compute-capability`, `cuda-runtime`: a TensorRT plan is bound to all three
  unless a hardware compatibility level says otherwise, and TensorRT-LLM sets none.
"""

from __future__ import annotations

from registry.environments import CpuEnvironment, Environment, GpuEnvironment
from registry.gate import Refusal
from registry.keys import EngineKey


def refusal(key: EngineKey, environment: Environment) -> Refusal | None:
    """Says why an engine of this key cannot work there, or None."""
    if isinstance(environment, CpuEnvironment):
        return _on_cpu(key, environment)
    return _on_gpu(key, environment)


def _on_cpu(key: EngineKey, environment: CpuEnvironment) -> Refusal | None:
    if "instruction_set" not in key.hard:
        return Refusal("wrong-kind", "the engine was built for a GPU, the node offers a CPU")
    missing = sorted(set(key.hard["instruction_set"]) - set(environment.instruction_set))
    if missing:
        reason = f"the engine was compiled for CPU features the node lacks: {', '.join(missing)}"
        return Refusal("cpu-architecture-features", reason, tuple(missing))
    if key.hard.get("torch") != environment.torch:
        built = key.hard.get("torch")
        reason = f"compiled by torch {built}, the node has torch {environment.torch}"
        return Refusal("torch-version", reason)
    return None


def _on_gpu(key: EngineKey, environment: GpuEnvironment) -> Refusal | None:
    if "gpu_product" not in key.hard:
        return Refusal("wrong-kind", "the engine was built for a CPU, the node offers a GPU")
    for rule, field, found in (
        ("compute-capability", "compute_capability", environment.compute_capability),
        ("gpu-product", "gpu_product", environment.product),
        ("cuda-runtime", "cuda_runtime", environment.cuda_runtime),
    ):
        if key.hard.get(field) != found:
            reason = f"built for {field} {key.hard.get(field)}, the node has {found}"
            return Refusal(rule, reason)
    return None
