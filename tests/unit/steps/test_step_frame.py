"""What holds for every step script, whatever it does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from enginekeeper.toolchains.runner import STEPS
from enginekeeper.toolchains.step_code import step_digest, step_files

_SCRIPTS = sorted(path for path in STEPS.glob("*.py") if path.name != "__init__.py")
_STEPS = [path for path in _SCRIPTS if not path.name.startswith("_")]

_TOOLCHAIN_MODULES = {
    "accelerate", "gguf", "httpx", "huggingface_hub", "jinja2", "modelopt", "numpy", "safetensors",
    "tensorrt_llm", "torch", "transformers", "vllm",
}  # fmt: skip


_ALSO = {
    "_double": {"tensorrt_llm_release"},  # of the double, once it is on the path
    "run_with_double": {  # runs one
        "describe_runtime", "probe_trtllm", "score_served", "score_triton", "score_trtllm",
        "warm_pytorch",
    },
}  # fmt: skip


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: path.stem)
def test_a_step_imports_only_the_standard_library_its_toolchain_and_siblings(path: Path) -> None:
    siblings = {script.stem for script in _SCRIPTS if script.name.startswith("_")}

    allowed = sys.stdlib_module_names | _TOOLCHAIN_MODULES | siblings | _ALSO.get(path.stem, set())
    assert _imports(path) <= allowed


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: path.stem)
def test_no_script_hides_a_module_of_the_same_name(path: Path) -> None:
    # The folder of a running script is the first place where Python looks for any module.
    assert path.stem not in sys.stdlib_module_names | _TOOLCHAIN_MODULES


@pytest.mark.parametrize("path", _STEPS, ids=lambda path: path.stem)
def test_every_step_has_the_frame(path: Path) -> None:
    assert "_step" in _imports(path)
    assert path.read_text().endswith('if __name__ == "__main__":\n    main(run)\n')


def _run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "_step.py").write_text((STEPS / "_step.py").read_text())
    (tmp_path / "probe.py").write_text(f"from _step import Refusal, main\n{body}\nmain(run)\n")
    (tmp_path / "job.json").write_text('{"a": 1}')
    return subprocess.run(
        [sys.executable, "-s", "-E", "probe.py", "job.json", "result.json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_result_states_step_outputs_and_versions(tmp_path: Path) -> None:
    ended = _run(tmp_path, "def run(job): return {'b': job['a'] + 1}")

    result = json.loads((tmp_path / "result.json").read_text())
    assert ended.returncode == 0
    assert result["ok"] is True
    assert (result["schema"], result["step"], result["outputs"]) == (1, "probe", {"b": 2})
    assert "python" in result["versions"]


def test_a_refusal_is_a_result_and_status_0(tmp_path: Path) -> None:
    ended = _run(tmp_path, "def run(job): raise Refusal('kind', 'text', where='a', actual=1)")

    result = json.loads((tmp_path / "result.json").read_text())
    assert ended.returncode == 0
    assert result["error"] == {"kind": "kind", "message": "text", "where": "a", "actual": "1"}
    assert "outputs" not in result


@pytest.mark.parametrize("answer", ["1 / 0", "{'a': float('nan')}", "{'a': object()}", "3"])
def test_a_crash_leaves_no_result(tmp_path: Path, answer: str) -> None:
    ended = _run(tmp_path, f"def run(job): return {answer}")

    assert ended.returncode == 1
    assert not (tmp_path / "result.json").exists()


def test_a_step_without_its_arguments_says_how_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "_step.py").write_text((STEPS / "_step.py").read_text())
    program = "from _step import main; main(dict)"

    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert "JOB RESULT" in ended.stderr


def _write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def test_a_steps_code_is_what_it_imports_directly_or_not(tmp_path: Path) -> None:
    _write(tmp_path, a="import os\nfrom _b import x", _b="def f():\n    import _c", _c="", _d="")

    assert [path.stem for path in step_files("a", tmp_path)] == ["_b", "_c", "a"]


def test_a_steps_digest_follows_its_own_code_only(tmp_path: Path) -> None:
    _write(tmp_path, a="import _b", _b="import _b, a", _d="")
    before = step_digest("a", tmp_path)

    _write(tmp_path, _d="changed = 1")
    assert step_digest("a", tmp_path) == before
    _write(tmp_path, _b="changed = 1")
    assert step_digest("a", tmp_path) != before
