"""What a runner asks of a release, and that its double takes just that."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from enginekeeper.building.engine_runner import EngineRunner
from enginekeeper.errors import InputError
from enginekeeper.specs.llm_api import interface_of, releases_with
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.runner import STEPS

WITH_ENGINES = [one.version for one in releases().values() if one.builds_engines]


@pytest.fixture
def release_module() -> Iterator[ModuleType]:
    """The double's own list of what each release takes; it needs no torch."""
    sys.path.append(str(STEPS / "doubles"))
    yield importlib.import_module("tensorrt_llm_release")
    sys.path.remove(str(STEPS / "doubles"))


def _engine(folder: Path, **build: Any) -> Path:  # noqa: ANN401 - JSON values
    config = {
        "build_config": {"max_batch_size": 4, **build},
        "pretrained_config": {"mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("version", WITH_ENGINES)
def test_the_double_of_every_release_takes_what_its_runner_asks(
    version: str, release_module: ModuleType, tmp_path: Path
) -> None:
    release_module.STATE.version = version
    assert release_module.require_known() == version

    job = EngineRunner(version).job(_engine(tmp_path), "generation")

    release_module.check_arguments(job["api"]["arguments"], "tensorrt")
    assert job["api"]["arguments"]["tensor_parallel_size"] == 2
    assert job["max_batch"] == 4


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [("0.18.2", TypeError, "unexpected keyword"), ("1.2.1", ValueError, "Extra inputs")],
)
def test_the_double_refuses_a_name_as_its_release_does(
    version: str, error: type[Exception], words: str, release_module: ModuleType
) -> None:
    release_module.STATE.version = version

    with pytest.raises(error, match=words):
        release_module.check_arguments({"model": "x", "kv_cache_configs": {}}, "tensorrt")


def test_the_pytorch_settings_are_none_of_the_engine_s(release_module: ModuleType) -> None:
    release_module.STATE.version = "1.2.1"
    release_module.check_arguments({"enable_autotuner": True}, "pytorch")

    with pytest.raises(ValueError, match="enable_autotuner"):
        release_module.check_arguments({"enable_autotuner": True}, "tensorrt")


def test_the_cache_is_reused_only_where_that_is_asked_about(tmp_path: Path) -> None:
    engine = _engine(tmp_path)

    plain, reusing = (
        EngineRunner("1.2.1").job(engine, "generation", reuse=reuse) for reuse in (False, True)
    )

    assert plain["api"]["arguments"]["kv_cache_config"] == {"enable_block_reuse": False}
    assert reusing["api"]["arguments"]["kv_cache_config"] == {"enable_block_reuse": True}


def test_an_engine_without_context_logits_is_not_asked_for_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives no context logits") as caught:
        EngineRunner("1.2.1").job(_engine(tmp_path), "context")

    assert "validation twin" in str(caught.value.remedy)
    twin = _engine(tmp_path, gather_context_logits=True)
    assert EngineRunner("1.2.1").job(twin, "context")["way"] == "context"


def test_what_trtllm_build_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(InputError, match="not an engine of trtllm-build"):
        EngineRunner("1.2.1").job(tmp_path, "generation")


@pytest.mark.parametrize("version", releases_with("pytorch"))
def test_the_double_of_the_pytorch_backend_takes_every_option_of_a_bundle(
    version: str, release_module: ModuleType
) -> None:
    release_module.STATE.version = version
    arguments = interface_of(version, "pytorch").arguments

    release_module.check_arguments(dict.fromkeys(arguments), "pytorch")


@pytest.mark.parametrize("gone", ["build_config", "enable_trtllm_sampler", "fast_build"])
def test_what_went_with_the_tensorrt_backend_is_refused(
    gone: str, release_module: ModuleType
) -> None:
    release_module.STATE.version = "1.3.0rc22"

    with pytest.raises(ValueError, match=f"(?s)TorchLlmArgs.*{gone}"):
        release_module.check_arguments({"model": "x", gone: None}, "pytorch")
    with pytest.raises(ValueError, match="tensorrt"):
        release_module.check_arguments({"model": "x", "backend": "tensorrt"}, "pytorch")
