"""Where an engine is judged by this machine: on its CPU, on its GPU, or on a simulated one.

An engine for a GPU meets the one of its product that NVML names here, under its driver.
A simulated engine meets the product that it was built for, under the driver that its spec names,
else under that of the simulated fleet: no real GPU is ever said to have been met.
"""

from __future__ import annotations

from enginekeeper.building.simulated.fleet import DRIVER
from enginekeeper.compatibility.cuda import cuda_of_driver, cuda_table
from enginekeeper.errors import InputError
from enginekeeper.fleet.environments import meant_for, missing_for, runtime_of
from enginekeeper.orchestration.bench import Bench
from enginekeeper.specs.profiles import BuilderKind
from registry.environments import Environment, GpuEnvironment
from registry.keys import SIMULATED_BUILDERS, EngineKey

_REAL = (BuilderKind.TENSORRT_LLM, BuilderKind.TRTLLM_PYTORCH, BuilderKind.VLLM)
"""What may be for a GPU of this host; a serving bundle may be for its CPU, too."""

_OF_A_GPU = ("gpu_product", "compute_capability", "cuda_runtime")


def environment_of(bench: Bench, key: EngineKey) -> Environment:
    """Returns the environment in which an engine of a key is judged here.

    Raises InputError for a driver of which nobody knows what CUDA it offers, and for a simulated
    engine of no GPU.
    """
    if key.hard["builder"] in _REAL:
        return _gpu_here(bench, key) or bench.environment  # none: it is not judged here
    if key.hard["builder"] not in SIMULATED_BUILDERS:
        return bench.environment
    missing = [name for name in _OF_A_GPU if name not in key.hard]
    if missing:
        raise InputError(
            "a simulated engine whose key names no GPU",
            where=f"key {key.digest().short}",
            actual=f"no {', no '.join(missing)}",
            remedy="build it again: enginekeeper build",
        )
    driver = str(key.soft.get("driver", DRIVER))
    cuda = cuda_of_driver(driver)
    if cuda is None:
        known = ", ".join(f"{one.driver} (CUDA {one.cuda})" for one in cuda_table().toolkits)
        raise InputError(
            "it is not known which CUDA this driver offers",
            where="target.driver of a simulated engine",
            actual=driver,
            expected=f"a driver of one of these branches: {known}",
        )
    return GpuEnvironment(
        product=str(key.hard["gpu_product"]),
        compute_capability=str(key.hard["compute_capability"]),
        cuda_runtime=str(key.hard["cuda_runtime"]),
        cuda_driver=cuda,
        driver=driver,
    )


def _gpu_here(bench: Bench, key: EngineKey) -> GpuEnvironment | None:
    """Returns what an engine meets on this host's GPU of its product; None without one."""
    if not bench.gpus or missing_for(key, bench.gpus):
        return None
    driver = bench.driver()
    return meant_for(key, bench.gpus)[0].under(driver, runtime_of(key, driver))
