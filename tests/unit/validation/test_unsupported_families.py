"""Families that the audits do not know are refused or left in doubt by name: none is passed."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.validation.audits import audit
from enginekeeper.validation.source_model import UnusableModelError
from tests.factories import checkpoints
from tests.factories.families import Cut, Family, lay_out
from tests.factories.honest_exports import export
from tests.factories.unsupported import UNSUPPORTED, disguised

CUT = Cut(layers=(0, 1), vocabulary=92)
LACKING = {
    "phi3": "mlp.gate_proj",
    "olmo2": "input_layernorm",
    "mixtral": "mlp.down_proj",
    "qwen2-moe": "mlp.down_proj",
}
"""What Llama has and these have not; the other families have all that Llama has."""


def laid_out(family: Family, directory: Path) -> Path:
    return lay_out(family, checkpoints.SOURCE, CUT, directory)


def doubts(family: Family, directory: Path, *faults: str) -> set[str]:
    source = laid_out(family, directory / "source")
    reports = audit(source, export(source, directory / "checkpoint", None))
    found = [one for report in reports for one in report.findings]
    assert {one.where for one in found if one.result == "fail"} == set(faults)
    return {one.check for one in found if one.result == "inconclusive"}


def test_every_family_has_its_row() -> None:
    assert {*LACKING, "gemma", "gemma2", "smollm3"} == set(UNSUPPORTED)


@pytest.mark.parametrize(("name", "tensor"), LACKING.items())
def test_a_family_without_tensors_of_llama_is_refused_by_its_architecture(
    name: str, tensor: str, tmp_path: Path
) -> None:
    source = laid_out(UNSUPPORTED[name], tmp_path / "source")
    llama = laid_out(Family(), tmp_path / "llama")
    checkpoint = export(llama, tmp_path / "checkpoint", None)

    with pytest.raises(UnusableModelError, match=UNSUPPORTED[name].architecture) as refused:
        audit(source, checkpoint)

    assert tensor in str(refused.value)


@pytest.mark.parametrize("name", ["gemma", "gemma2", "smollm3"])
def test_an_architecture_that_is_not_known_is_in_doubt(name: str, tmp_path: Path) -> None:
    assert "config.architecture" in doubts(UNSUPPORTED[name], tmp_path)


@pytest.mark.parametrize("name", ["phi3", "mixtral", "qwen2-moe"])
def test_who_calls_itself_a_llama_and_lacks_its_tensors_is_refused(
    name: str, tmp_path: Path
) -> None:
    source = laid_out(disguised(name), tmp_path / "source")
    llama = laid_out(Family(), tmp_path / "llama")
    checkpoint = export(llama, tmp_path / "checkpoint", None)

    with pytest.raises(UnusableModelError, match="a tensor is missing"):
        audit(source, checkpoint)


@pytest.mark.parametrize(
    ("name", "check", "faults"),
    [
        ("gemma", "config.unknown", ()),
        ("gemma2", "weights.census", ("attn_logit_softcapping", "final_logit_softcapping")),
        ("olmo2", "weights.census", ()),
        ("smollm3", "config.unknown", ()),
    ],
)
def test_who_calls_itself_a_llama_and_is_more_is_in_doubt_at_best(
    name: str, check: str, faults: tuple[str, ...], tmp_path: Path
) -> None:
    assert check in doubts(disguised(name), tmp_path, *faults)
