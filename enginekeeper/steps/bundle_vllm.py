"""The step `bundle_vllm`: vLLM reads a serving bundle's options and says what it makes of them.

Job: `{"model": directory, "config": YAML file}`. What `vllm serve` would refuse before it loads any
weight (an option it does not have, an architecture it does not know, a length beyond the model's)
is refused here, in its own words. No weight is loaded and no model code of the directory is run.
"""

from __future__ import annotations

import os
from typing import Any

from _step import Refusal, main
from _vllm_environment import ENVIRONMENT, vllm_version


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Parses the options as the server does and makes the engine's configuration of them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    config = _effective(job["model"], job["config"])
    model, parallel, scheduler = (
        config.model_config,
        config.parallel_config,
        config.scheduler_config,
    )
    return {
        "vllm": vllm_version(),
        "architecture": str(model.architecture),
        "effective": {
            "served_model_name": str(model.served_model_name),
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": int(model.max_model_len),
            "quantization": None if model.quantization is None else str(model.quantization),
            "enforce_eager": bool(model.enforce_eager),
            "trust_remote_code": bool(model.trust_remote_code),
            "max_num_seqs": int(scheduler.max_num_seqs),
            "max_num_batched_tokens": int(scheduler.max_num_batched_tokens),
            "tensor_parallel_size": int(parallel.tensor_parallel_size),
            "pipeline_parallel_size": int(parallel.pipeline_parallel_size),
        },
    }


def _effective(model: str, config: str) -> Any:  # noqa: ANN401 - vLLM ships no types
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - takes seconds to import
    from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    parser = make_arg_parser(FlexibleArgumentParser())
    try:
        arguments = parser.parse_args(["--model", model, "--config", config])
        return AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
    except SystemExit as error:
        raise Refusal(
            "options-refused", "vLLM does not know an option of the configuration",
            where=config, remedy="see the step's log for vLLM's own words",
        ) from error  # fmt: skip
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Refusal(
            "configuration-refused", "vLLM refuses the configuration", where=config,
            actual=" ".join(str(error).split())[:500],
        ) from error  # fmt: skip


if __name__ == "__main__":
    main(run)
