"""How files are cut into parts: within what S3 counts and within the memory promised."""

from __future__ import annotations

import pytest

from registry.blobs.interface import PART
from registry.blobs.s3_upload import Cut
from registry.errors import InvalidRecordError

GIB = 1024**3
S3_PARTS = 10_000
MEMORY = 128 * 1024 * 1024


@pytest.mark.parametrize("size", [PART, GIB, 156 * GIB, 157 * GIB, 300 * GIB, 625 * GIB])
def test_parts_fit_into_what_s3_counts_and_into_memory(size: int) -> None:
    cut = Cut.of(size)
    assert cut.part * S3_PARTS >= size
    assert cut.ahead * cut.part <= MEMORY
    assert cut.ahead >= 2  # one is sent while another is read


@pytest.mark.parametrize("size", [PART, 70 * GIB, 156 * GIB])
def test_parts_of_usual_files_are_of_one_size(size: int) -> None:
    assert Cut.of(size).part == PART


def test_a_file_too_large_for_that_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="too large"):
        Cut.of(626 * GIB)
