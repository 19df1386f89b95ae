"""The audits of a vLLM serving bundle, each broken in one way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from enginekeeper.errors import InputError
from enginekeeper.validation.bundle_audit import audit_bundle
from tests.factories.vllm_bundles import FILES, write_bundle

Damage = Callable[[Path], object]


def findings(bundle: Path) -> list[tuple[str, str]]:
    return [(one.check, one.where) for report in audit_bundle(bundle, FILES)
            for one in report.findings]  # fmt: skip


def test_a_bundle_of_the_source_passes_both_audits(tmp_path: Path) -> None:
    reports = audit_bundle(write_bundle(tmp_path / "bundle"), FILES)

    assert [(one.check, one.result) for one in reports] == [("config", "pass"), ("weights", "pass")]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda it: (it / "model" / "config.json").write_text("{}"), "config.json"),
        (lambda it: (it / "model" / "model.safetensors").unlink(), "model.safetensors"),
        (lambda it: (it / "model" / "modeling.py").write_text(""), "modeling.py"),
    ],
)
def test_a_file_that_is_not_the_sources_fails(tmp_path: Path, damage: Damage, found: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    damage(bundle)

    assert findings(bundle) == [("weights.files", found)]


def test_an_option_that_was_not_pinned_fails(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    with (bundle / "serve.yaml").open("a") as handle:
        handle.write("rope-theta: 10000\n")

    assert findings(bundle) == [("config.serve", "rope_theta")]


def test_what_vllm_made_otherwise_fails(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", effective={"dtype": "float16"})

    assert findings(bundle) == [("config.effective", "dtype")]


def test_code_of_the_model_fails(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", trust_remote_code=True)

    assert ("config.remote_code", "trust_remote_code") in findings(bundle)


@pytest.mark.parametrize("line", ["dtype bfloat16", "dtype: bfloat16", 'dtype: "float16"'])
def test_a_configuration_that_reads_in_two_ways_is_none(tmp_path: Path, line: str) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    with (bundle / "serve.yaml").open("a") as handle:
        handle.write(f"{line}\n")  # the last is there already

    with pytest.raises(InputError):
        audit_bundle(bundle, FILES)
