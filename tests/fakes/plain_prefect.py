"""A Prefect that runs a flow's functions as they are: for what a test wants to do often.

Strict: it knows what `flows/build.py` and `start.py` use, with these very options, and nothing
else. Retries are those that the flow asks for, without the waiting. What Prefect itself does with
signals and servers is tested with the real one, in `tests/integration/flows`.
"""

from __future__ import annotations

import functools
import logging
import runpy
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from enginekeeper.orchestration import prefect_api

Function = Callable[..., Any]


def install() -> None:
    """Puts it where `import prefect` finds it; for a process of its own only."""
    modules: dict[str, dict[str, Any]] = {
        "prefect": {"flow": _flow, "task": _task, "FAKE": True},
        "prefect.artifacts": {"create_table_artifact": _create_table_artifact},
        "prefect.cache_policies": {"NO_CACHE": "no cache"},
        "prefect.flows": {"load_flow_from_entrypoint": _load},
        "prefect.logging": {},
        "prefect.logging.handlers": {"APILogHandler": logging.NullHandler},
        "prefect.settings": {"get_current_settings": _settings},
    }
    for name, attributes in modules.items():
        if name in sys.modules:
            raise AssertionError(f"the real {name} is there already")
        module = ModuleType(name)
        vars(module).update(attributes)
        sys.modules[name] = module
    vars(prefect_api)["start_server"] = lambda _log: None
    vars(prefect_api)["check_server"] = lambda _url: None


def _flow(*, name: str, persist_result: bool) -> Callable[[Function], Function]:
    assert name.startswith("enginekeeper-")
    assert not persist_result
    return lambda function: function


def _task(
    *,
    cache_policy: str,
    retries: int = 0,
    retry_delay_seconds: int = 0,
    retry_condition_fn: Function | None = None,
) -> Callable[[Function], Function]:
    assert cache_policy == "no cache"
    assert retry_delay_seconds >= 0

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def run(*arguments: Any) -> Any:  # noqa: ANN401 - any task
            for _ in range(retries):
                try:
                    return function(*arguments)
                except Exception as error:
                    assert retry_condition_fn is not None
                    if not retry_condition_fn(None, None, _State(error)):
                        raise
            return function(*arguments)

        return run

    return decorate


class _State:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self, *, raise_on_failure: bool) -> Exception:
        assert not raise_on_failure
        return self._error


def _load(entrypoint: str, *, use_placeholder_flow: bool) -> Function:
    assert not use_placeholder_flow
    script, _, name = entrypoint.rpartition(":")
    loaded: Function = runpy.run_path(script, run_name="build")[name]
    return loaded


def _settings() -> SimpleNamespace:
    return SimpleNamespace(api=SimpleNamespace(url=None))


def _create_table_artifact(*, table: list[dict[str, Any]], key: str) -> None:
    assert table
    assert key
