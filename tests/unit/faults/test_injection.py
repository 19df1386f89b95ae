"""Injection: a copy with exactly the fault in it, the original as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.errors import InputError, MissingError
from enginekeeper.faults.catalogue import ELSEWHERE, FAULTS, named, uncovered
from enginekeeper.faults.draft import Draft, InapplicableError
from enginekeeper.faults.fault import Layers, Linear, Target
from enginekeeper.faults.injection import Injection, inject
from enginekeeper.faults.linear_edit import LinearEdit
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.tensor_files import TensorFile
from registry.digests import digest_file
from tests.factories import checkpoints
from tests.factories.families import FAMILIES, Cut, lay_out
from tests.factories.honest_exports import export

PROJ = "transformer.layers.1.mlp.proj"


def injection(
    name: str, dose: float | None = None, layers: Layers = "last", linear: Linear = "mlp.proj"
) -> Injection:
    fault = named(name)
    return Injection(fault, fault.usual if dose is None else dose, Target(layers, linear))


def changed_tensors(one: Path, other: Path) -> set[str]:
    before, after = (TensorFile.open(path / "rank0.safetensors") for path in (one, other))
    return {
        name
        for name in before.keys() | after.keys()
        if name not in before
        or name not in after
        or before[name].read().tobytes() != after[name].read().tobytes()
    }


def test_names_are_unique_and_every_class_is_covered_or_excused() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert uncovered() == frozenset()
    assert not set(ELSEWHERE) & {fault.taxonomy for fault in FAULTS}


def test_only_what_was_asked_for_is_changed(exported: Path, tmp_path: Path) -> None:
    inject(exported, injection("scale-gain", 1.03), tmp_path / "out")
    (name,) = changed_tensors(exported, tmp_path / "out")
    assert name.startswith(f"{PROJ}.")


def test_a_gain_multiplies_the_dequantized_weight(exported: Path, tmp_path: Path) -> None:
    before = LinearEdit(Draft.open(exported), 0, PROJ).values
    inject(exported, injection("scale-gain", 2.0), tmp_path / "out")
    after = LinearEdit(Draft.open(tmp_path / "out"), 0, PROJ).values
    np.testing.assert_allclose(after, 2 * before, rtol=1e-6)


def test_codes_and_scales_survive_being_taken_apart(exported: Path) -> None:
    draft = Draft.open(exported)
    linear = LinearEdit(draft, 0, PROJ)
    linear.codes = linear.codes
    assert not draft.differs()


def test_the_original_stays_as_it_was(exported: Path, tmp_path: Path) -> None:
    before = {path: digest_file(path) for path in exported.iterdir()}
    for number, name in enumerate(("scale-gain", "rope-base", "tail-zero", "layer-copied")):
        inject(exported, injection(name, layers="all"), tmp_path / str(number))
    assert {path: digest_file(path) for path in exported.iterdir()} == before


def test_an_existing_output_is_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="goes into a new copy"):
        inject(exported, injection("rope-base"), exported)


def test_a_fault_that_changes_nothing_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    with pytest.raises(InapplicableError, match="changes nothing here"):
        inject(checkpoint, injection("scale-gain", 1.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_control_that_changes_nothing_is_refused_too(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("fp8", tmp_path)
    with pytest.raises(InapplicableError, match="changes nothing here"):
        inject(checkpoint, injection("cache-scales-one"), tmp_path / "out")


@pytest.mark.parametrize("name", ["tensor-order", "file-notes"])
def test_another_order_and_notes_of_their_own_are_a_change(
    name: str, exported: Path, tmp_path: Path
) -> None:
    inject(exported, injection(name), tmp_path / "out")
    one, other = (
        (path / "rank0.safetensors").read_bytes() for path in (exported, tmp_path / "out")
    )
    assert one != other


@pytest.mark.parametrize(
    ("recipe_name", "fault"),
    [("none", "scale-zero"), ("w8a16", "nibbles-swapped"), ("fp8", "zero-shift")],
)
def test_what_a_format_cannot_express_is_refused(
    recipe_name: str, fault: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported(recipe_name, tmp_path)
    with pytest.raises(InapplicableError):
        inject(checkpoint, injection(fault), tmp_path / "out")


@pytest.mark.parametrize(
    ("fault", "dose"),
    [
        ("bit-flip", 9.0),
        ("bit-flip", -1.0),
        ("rows-zero", 100000.0),
        ("columns-permuted", 5.0),
        ("tail-repeated", 0.9),
        ("scale-tiled", 0.2),
        ("head-quantized", 0.2),
        ("rope-base", float("inf")),
        ("rope-base", 1e308),
        ("scale-gain", float("nan")),
    ],
)
def test_a_dose_that_does_not_fit_is_refused(fault: str, dose: float, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)
    with pytest.raises(InapplicableError):
        inject(checkpoint, injection(fault, dose), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_smallest_tail_is_one_byte(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    inject(checkpoint, injection("tail-zero", 1e-5), tmp_path / "out")
    before, after = (
        LinearEdit(Draft.open(p), 0, PROJ).codes for p in (checkpoint, tmp_path / "out")
    )
    assert (before != after).sum() == 1


def test_injections_compose_and_are_all_recorded(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    inject(checkpoint, injection("rope-base", 2.0), tmp_path / "one")
    inject(tmp_path / "one", injection("scale-gain"), tmp_path / "two")
    record = json.loads((tmp_path / "two" / "faults.json").read_text())
    assert [one["fault"] for one in record["injected"]] == ["rope-base", "scale-gain"]
    assert record["injected"][1]["culprits"] == [PROJ]
    assert Checkpoint.open(tmp_path / "two").config.rotary_base == 100000.0


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        one = Injection(named("scale-some-x2"), 0.1, Target("last", "mlp.proj", seed))
        inject(checkpoint, one, tmp_path / name)
    assert not changed_tensors(tmp_path / "a", tmp_path / "b")
    assert changed_tensors(tmp_path / "a", tmp_path / "c")


def test_an_overlay_is_the_checkpoint_that_is_written(exported: Path, tmp_path: Path) -> None:
    draft = Draft.open(exported)
    injection("layer-copied").apply(draft)
    for name in ("whole", "thin"):
        (tmp_path / name).mkdir()
    draft.write(tmp_path / "whole")
    thin, whole = draft.overlay(tmp_path / "thin"), Checkpoint.open(tmp_path / "whole")
    assert thin.config == whole.config
    assert list(thin.names()) == list(whole.names())
    pairs = [(thin.ranks[0][name], whole.ranks[0][name]) for name in whole.ranks[0]]
    assert all(a.read().tobytes() == b.read().tobytes() for a, b in pairs)


def test_a_reordered_file_is_what_an_overlay_reads(exported: Path, tmp_path: Path) -> None:
    draft = Draft.open(exported)
    injection("tensor-order").apply(draft)
    thin = draft.overlay(tmp_path).ranks[0]
    assert {tensor.file.parent for tensor in thin.values()} == {tmp_path}
    assert sorted(thin, key=lambda name: thin[name].start) == list(draft.ranks[0])


def test_tensor_parallel_slices_are_all_edited(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16_awq_tp2", tmp_path)
    inject(checkpoint, injection("scale-gain", 1.1), tmp_path / "out")
    for rank in (0, 1):
        name = f"{PROJ}.weights_scaling_factor"
        before, after = (
            TensorFile.open(path / f"rank{rank}.safetensors")[name].read()
            for path in (checkpoint, tmp_path / "out")
        )
        np.testing.assert_allclose(after, 1.1 * before, rtol=1e-6)


def test_an_unknown_fault_is_not_found() -> None:
    with pytest.raises(MissingError, match="no such fault"):
        named("scale-gian")


def of_family(name: str, directory: Path) -> Path:
    cut = Cut(layers=(0, 1), vocabulary=92)
    source = lay_out(FAMILIES[name], checkpoints.SOURCE, cut, directory / name)
    return export(source, directory / "checkpoint", None)


@pytest.mark.parametrize(
    ("family", "fault", "field", "said"),
    [
        ("qwen2", "attention-bias-flag", "attn_bias", False),
        ("qwen3", "attention-bias-flag", "attn_bias", True),
        ("qwen3", "key-norm-flag", "qk_layernorm", False),
    ],
)
def test_a_flag_says_the_contrary_of_the_tensors(
    family: str, fault: str, field: str, said: object, tmp_path: Path
) -> None:
    inject(of_family(family, tmp_path), injection(fault), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())[field] is said


@pytest.mark.parametrize(
    ("family", "fault"),
    [("biases", "bias-of-zeros"), ("dead", "layer-copied"), ("dead", "linear-of-neighbour")],
)
def test_what_the_family_makes_no_fault_or_no_control_is_refused(
    family: str, fault: str, tmp_path: Path
) -> None:
    checkpoint = of_family(family, tmp_path)
    with pytest.raises(InapplicableError):
        inject(checkpoint, injection(fault), tmp_path / "out")
