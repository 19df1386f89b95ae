"""No step runs code that a model brings with it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from enginekeeper.toolchains.runner import STEPS

CALLS = [
    (path, call)
    for path in sorted(STEPS.glob("*.py"))
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(call, ast.Call)
    and isinstance(call.func, ast.Attribute)
    and call.func.attr == "from_pretrained"
    and not any(word.arg == "gguf_file" for word in call.keywords)  # which brings no code
]


def test_models_are_loaded_in_steps() -> None:
    assert {path.name for path, _ in CALLS} >= {"quantize.py", "_tokenizers.py", "_twin.py"}


@pytest.mark.parametrize(("path", "call"), CALLS, ids=lambda one: getattr(one, "name", None))
def test_whatever_loads_a_model_says_that_its_code_is_not_run(path: Path, call: ast.Call) -> None:
    """Left out, transformers asks on standard input and waits for an answer."""
    said = {word.arg: word.value for word in call.keywords}.get("trust_remote_code")

    assert isinstance(said, ast.Constant), path
    assert said.value is False
