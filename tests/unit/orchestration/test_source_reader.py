"""The pipeline reads object stores only for models that are in one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from enginekeeper.orchestration.pipeline import _prefix_reader
from enginekeeper.specs.source import ModelSource
from registry.blobs.s3_prefix import S3PrefixReader


def test_a_model_below_a_prefix_is_read_from_s3() -> None:
    assert isinstance(_prefix_reader(ModelSource(name="m", s3="s3://bucket/m")), S3PrefixReader)


def test_any_other_model_needs_no_object_store() -> None:
    assert _prefix_reader(ModelSource(name="m", path="/models/m")) is None


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        # Not boto3 here: the signing library imports it on its own.
        ("enginekeeper.orchestration.pipeline", "registry.blobs.s3_client"),
        ("registry.blobs.select", "boto3"),
    ],
)
def test_s3_is_not_imported_before_it_is_needed(module: str, absent: str) -> None:
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
