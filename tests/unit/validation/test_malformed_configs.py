"""Any field of either config may hold anything: it is named, and never lived with by accident."""

from __future__ import annotations

import copy
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginekeeper.configs.form import Form
from enginekeeper.configs.hugging_face import HfConfig
from enginekeeper.configs.trtllm import TrtConfig
from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.audits import audit
from enginekeeper.validation.twin import write_checkpoint_twin, write_recipe_twin
from tests.factories import checkpoints

Document = dict[str, Any]
Steps = tuple[str | int, ...]
Action = Callable[[Path, Path, Path], object]

YARN = {
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "attention_factor": 1.0,
}
SOURCE_MORE: Document = {
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 50000.0, **YARN},
    "sliding_window": 64,
    "use_sliding_window": True,
    "max_window_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 64,
}
CHECKPOINT_MORE: Document = {
    "rotary_scaling": {"type": "yarn", **YARN},
    "rotary_embedding_dim": 16,
    "runtime_defaults": {"max_attention_window": [64, 256]},
    "q_scaling": 1.0,
}
"""Fields that a plain model does without, so that they are replaced too."""

MEMORY = 48 * 2**20
"""Bytes; an honest audit of the tiny model takes less than one million."""

SECONDS = 10
"""Of processor time; an honest audit takes 0.2 while its memory is traced."""

KINDS: tuple[object, ...] = (
    "",
    "text",
    "NaN",
    "1",
    [],
    [1],
    [{}],
    {},
    {"a": 1},
    None,
    True,
    False,
    -1,
    0,
    1,
    0.5,
)
HUGE = (10**9, 2**31, 2**63, 10**30, 10**400, -(10**400), 1e300, 5e-324)
EDGES = st.sampled_from((*KINDS, *HUGE, float("nan"), float("inf"), float("-inf")))
ANYTHING = EDGES | st.recursive(
    EDGES | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=["w8a8_sq", "w4a16_awq_tp2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both directories below one, with configs in which everything is said and right."""
    root = tmp_path_factory.mktemp("pair")
    checkpoints.edit_config(checkpoints.source_copy(root), **SOURCE_MORE)
    checkpoint = checkpoints.exported(request.param, root)
    checkpoints.edit_config(checkpoint, **CHECKPOINT_MORE)
    checkpoint.rename(root / "checkpoint")
    reports = audit(root / "source", root / "checkpoint")
    assert [report.findings for report in reports] == [(), ()]
    return root


def paths(value: object, path: Steps = ()) -> Iterator[Steps]:
    """Yields the path of every value inside a document."""
    if path:
        yield path
    entries = enumerate(value) if isinstance(value, list) else ()
    for key, below in value.items() if isinstance(value, dict) else entries:
        yield from paths(below, (*path, key))


def replaced(document: Document, path: Steps, value: object) -> Document:
    changed = copy.deepcopy(document)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def audited(source: Path, checkpoint: Path, _output: Path) -> None:
    audit(source, checkpoint)


def refusal_of(action: Action, pair: Path) -> str | None:
    """Returns what an InputError said; whatever was given, it took little time and memory."""
    tracemalloc.start()
    begun = time.process_time()
    refusal = None
    try:
        action(pair / "source", pair / "checkpoint", pair / "twin")
    except InputError as error:
        refusal = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY
    assert time.process_time() - begun < SECONDS
    return refusal


@pytest.mark.parametrize("action", [audited, write_recipe_twin, write_checkpoint_twin])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_value_of_any_field_is_judged_or_named(
    data: st.DataObject, action: Action, pair: Path
) -> None:
    side = data.draw(st.sampled_from(["source", "checkpoint"]))
    path = pair / side / "config.json"
    honest = path.read_bytes()
    document = json.loads(honest)
    field = data.draw(st.sampled_from(list(paths(document))))
    path.write_text(json.dumps(replaced(document, field, data.draw(ANYTHING))))
    try:
        refusal = refusal_of(action, pair)
    finally:
        path.write_bytes(honest)
    name = next(key for key in reversed(field) if isinstance(key, str))
    named = refusal is None or name in refusal or "is not a number of JSON" in refusal
    assert named or action is not audited


@pytest.mark.parametrize(
    ("form", "field"),
    [(form, field) for form in (HfConfig, TrtConfig) for field in form.model_fields],
)
def test_every_field_has_a_kind(form: type[Form], field: str) -> None:
    values = {**read_json_object(checkpoints.SOURCE / "config.json"), field: [{}]}
    with pytest.raises(InputError, match=rf"^config\.json: {field}(\[0\])? is not usable"):
        form.of(values, "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": True}, "hidden_size is not usable\n  found:    true\n  expected: a whole"),
        ({"hidden_size": 0}, "expected: greater than or equal to 1"),
        ({"num_hidden_layers": 10**9}, "expected: less than or equal to 1024"),
        ({"rope_parameters": {"rope_theta": {}}}, "rope_parameters.rope_theta is not usable"),
        ({"rope_parameters": {"full": {"factor": "2"}}}, "rope_parameters.full.factor is not"),
        ({"rms_norm_eps": float("nan")}, "found:    nan\n  expected: a finite number"),
        ({"architectures": [None]}, r"architectures[0] is missing"),
        ({"text_config": {}}, "text_config.hidden_size is missing\n  expected: a whole number"),
    ],
)
def test_a_refusal_names_file_field_value_and_kind(changes: Document, message: str) -> None:
    values = {**read_json_object(checkpoints.SOURCE / "config.json"), **changes}
    with pytest.raises(InputError) as caught:
        HfConfig.of(values, "model/config.json")
    assert str(caught.value).startswith("model/config.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5000 + ", }", "\ud800"])
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(os.fsencode(text) if text.isprintable() else b"\xff\xfe")
    with pytest.raises(InputError, match="not JSON"):
        read_json_object(path)


def test_a_number_no_reader_holds_is_infinite(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1' + "0" * 5000 + ', "b": 123}')
    assert read_json_object(tmp_path / "config.json") == {"a": float("inf"), "b": 123}
