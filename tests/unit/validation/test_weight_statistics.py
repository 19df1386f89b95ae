"""Statistics of a part: which sums are made, and which would be for nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.numerics.mapping import Geometry, head_linear
from enginekeeper.validation.numerics.recipes import PLAIN
from enginekeeper.validation.numerics.reproduction import reproduce
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_statistics import PartStatistics, measure
from tests.factories import checkpoints


@pytest.fixture
def moved_head(tmp_path: Path) -> PartStatistics:
    """The statistics of an unquantized head that is not the source's."""
    directory = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_tensor(directory, "lm_head.weight", lambda w: w.astype(np.float32) * 1.01)
    source, checkpoint = SourceModel.open(checkpoints.SOURCE), Checkpoint.open(directory)
    geometry = Geometry.of(source.config)
    place = head_linear(geometry, geometry.vocabulary)
    stored = checkpoint.linear(place)
    reproduction = reproduce(
        source, place, PLAIN, stored, dtype=checkpoint.dtype, stored_in=checkpoint.dtype
    )
    return measure(stored, reproduction, 0, place.columns, place.parts[0])


def test_of_an_unquantized_part_it_is_kept_what_no_conversion_gives_and_no_step(
    moved_head: PartStatistics,
) -> None:
    cells = moved_head.blocks
    assert (cells.error > 0).any()
    assert cells.coarsest.nbytes == 0
    assert (cells.strays > 0).all()
