"""The table about CUDA is read strictly: what is misspelt or missing is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.compatibility import cuda
from enginekeeper.compatibility.cuda import cuda_table, read_table_at
from enginekeeper.errors import InputError

TABLE = Path(cuda.__file__).with_name("data") / "cuda.json"


def test_the_shipped_table_is_of_the_form() -> None:
    assert read_table_at(TABLE) == cuda_table()


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("toolkits", [{"cuda": "13.0", "drivers": "580.65.06"}]),
        ("toolkits", [{"cuda": "13", "driver": "580.65.06"}]),
        ("branches", [{"branch": "580", "ended": True}]),
        ("branches", [{"branch": 580, "last_month": "2028-13"}]),
        ("products", [{"product": "NVIDIA B200", "driver": "R570"}]),
        ("floors", {"13.x": "580"}),
        ("sources", {"floors": "x"}),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, part: str, wrong: Any) -> None:  # noqa: ANN401 - JSON
    file = tmp_path / "cuda.json"
    file.write_text(json.dumps({**json.loads(TABLE.read_text()), part: wrong}))
    with pytest.raises(InputError, match=rf"cuda.json: {part}"):
        read_table_at(file)
