from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from enginekeeper.errors import InputError
from enginekeeper.validation.array_files import ArrayFile
from enginekeeper.validation.dictionary import load_dictionary
from enginekeeper.validation.layers import load_layers
from enginekeeper.validation.probes import load_probes


def written(path: Path, **metadata: str) -> Path:
    save_file({"a": np.arange(3)}, path, {"schema": "1", **metadata})
    return path


def test_what_is_in_a_file_comes_back(tmp_path: Path) -> None:
    path = written(tmp_path / "f", names='["x", "y"]', sizes="[1, 2]")

    file = ArrayFile.open(path, holds="things", schema="1")

    assert file.array("a").tolist() == [0, 1, 2]
    assert (file.listed("names", str), file.listed("sizes", int)) == (("x", "y"), (1, 2))


@pytest.mark.parametrize("said", ['"xy"', "[1]", "[true]", "{}", "null", "no JSON"])
def test_a_list_of_anything_else_is_refused(tmp_path: Path, said: str) -> None:
    file = ArrayFile.open(written(tmp_path / "f", names=said), holds="things", schema="1")

    with pytest.raises(InputError, match=r"not a list|not JSON") as caught:
        file.listed("names", str)

    assert str(caught.value.where).endswith("f: names")


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)

    with pytest.raises(InputError, match="not a file of things"):
        ArrayFile.open(tmp_path / "f", holds="things", schema="1")


def test_another_version_and_what_is_missing_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "f")

    with pytest.raises(InputError, match="things of another version"):
        ArrayFile.open(path, holds="things", schema="2")
    file = ArrayFile.open(path, holds="things", schema="1")
    with pytest.raises(InputError, match="an array is missing"):
        file.array("b")
    with pytest.raises(InputError, match="something is not said"):
        file.said("names")


@pytest.mark.parametrize("load", [load_layers, load_probes, load_dictionary])
def test_a_file_without_its_metadata_is_no_traceback(tmp_path: Path, load: object) -> None:
    assert callable(load)
    for schema in ("1", "2"):
        with pytest.raises(InputError):
            load(written(tmp_path / schema, schema=schema))


@pytest.mark.parametrize(
    "metadata",
    [
        {"ladders": "[]"},
        {"ladders": '{"batch": 2}'},
        {"ladders": "{}", "stop": "[]"},
        {"ladders": "{}", "chosen": '{"asked": 3}'},
        {"ladders": "{}", "chosen": '{"asked": "3", "wrong": []}'},
        {"ladders": "{}", "chosen": '{"asked": 3, "wrong": "none"}'},
        {"ladders": "{}", "offers": '"logits"'},
    ],
)
def test_metadata_of_another_form_are_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    base = np.zeros((2, 4), np.float32)
    path = tmp_path / "p"
    save_file(
        {"offsets": np.array([0, 2]), "top_logprobs": base}, path, {"schema": "1", **metadata}
    )

    with pytest.raises(InputError, match="not "):
        load_probes(path)
