"""The validator's name moves with whatever can change a verdict, and with nothing else."""

from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper import own_code
from enginekeeper.orchestration import workshop
from enginekeeper.orchestration.validator import DECIDING, SCORING, validator_digest
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.toolchains.runner import STEPS
from enginekeeper.toolchains.step_code import step_digest
from registry.digests import Digest, digest_bytes
from tests.factories.benches import Site

PACKAGE = own_code.PACKAGE
MAKE_NO_NUMBER = {
    "build_trtllm", "bundle_vllm", "check_toolchain", "compile_engine", "describe_runtime",
    "fetch_hub", "materialize", "quantize", "refit_trtllm", "score_edits", "warm_pytorch",
}  # fmt: skip
DECIDES_NOTHING = {"bench", "channels", "environments", "outcome", "planning", "refitting"}
"""What judging calls that neither scores an arm nor makes anything of what was scored."""


@pytest.fixture
def shop(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """A workshop whose code, steps included, is a copy that a test may change."""
    copy = tmp_path / "enginekeeper"
    folders = ("configs", "validation", "orchestration", "specs", "steps", "sources", "data/probes")
    for folder in folders:
        shutil.copytree(PACKAGE / folder, copy / folder)
    monkeypatch.setattr(own_code, "PACKAGE", copy)
    monkeypatch.setattr(workshop, "step_digest", lambda step: step_digest(step, copy / "steps"))
    return site.bench.shop


@pytest.mark.parametrize(
    ("file", "moves"),
    [
        ("validation/verdict.py", True),
        ("validation/numerics/formats.py", True),
        ("configs/trtllm.py", True),
        ("orchestration/judging.py", True),
        ("orchestration/export_arm.py", True),
        ("orchestration/twin_probes.py", True),
        ("sources/tokenizer_files.py", True),
        ("steps/score_engine.py", True),
        ("steps/_scoring.py", True),
        ("steps/_vllm_logprobs.py", True),
        ("steps/tokenize_suite.py", True),
        ("steps/quantize.py", False),
        ("data/probes/awkward-v1.json", True),
        ("specs/matrix.py", False),
        ("orchestration/start.py", False),
    ],
)
def test_the_name_moves_with_the_code_that_decides(
    shop: Workshop, tmp_path: Path, file: str, *, moves: bool
) -> None:
    before = validator_digest(shop)
    with (tmp_path / "enginekeeper" / file).open("a") as handle:
        handle.write("\n# changed\n")
    assert (validator_digest(shop) != before) is moves


@pytest.mark.parametrize(
    ("toolchain", "moves"), [("inductor", True), ("vllm-cpu", True), ("modelopt", False)]
)
def test_the_name_moves_with_the_tools_that_score(
    shop: Workshop, toolchain: str, *, moves: bool
) -> None:
    def lock_of(name: str) -> Digest:
        return digest_bytes(b"newer") if name == toolchain else shop.lock_of(name)

    newer = replace(shop, lock_of=lock_of)
    assert (validator_digest(newer) != validator_digest(shop)) is moves


def test_every_step_either_scores_or_makes_no_number_of_a_verdict() -> None:
    steps = {path.stem for path in STEPS.glob("[!_]*.py")}
    assert steps == MAKE_NO_NUMBER | set(SCORING)
    assert MAKE_NO_NUMBER.isdisjoint(SCORING)


def test_whatever_judging_calls_is_named_or_makes_no_number_of_a_verdict() -> None:
    package = "enginekeeper.orchestration"
    tree = ast.parse((PACKAGE / "orchestration/judging.py").read_text(encoding="utf-8"))
    called: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            called |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{package}."):
            called.add(str(node.module).removeprefix(f"{package}."))
    named = {Path(path).stem for path in DECIDING if path.startswith("orchestration/")}
    assert called - named == DECIDES_NOTHING
