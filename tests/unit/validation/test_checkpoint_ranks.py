"""Checkpoints of several ranks, with biases, and with tensors that do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest

from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.findings import AuditReport
from enginekeeper.validation.numerics.formats import encode_e4m3
from enginekeeper.validation.numerics.recipes import quantize_rows, recipe_for
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.tensor_files import PlannedTensor, TensorFile, write_tensors
from enginekeeper.validation.twin import write_checkpoint_twin
from enginekeeper.validation.weight_audit import audit_weights
from tests.factories import checkpoints
from tests.factories.checkpoints import Array
from tests.factories.honest_exports import export

QKV = "transformer.layers.1.attention.qkv"


def write_rank(checkpoint: Path, rank: int, tensors: dict[str, Array]) -> None:
    planned = [PlannedTensor.of(name, array) for name, array in tensors.items()]
    write_tensors(checkpoint / f"rank{rank}.safetensors", planned)


def tensors_of(checkpoint: Path) -> dict[str, Array]:
    file = TensorFile.open(checkpoint / "rank0.safetensors")
    return {name: np.array(tensor.read()) for name, tensor in file.items()}


def audited(checkpoint: Path, source: Path = checkpoints.SOURCE) -> AuditReport:
    return audit_weights(SourceModel.open(source), Checkpoint.open(checkpoint))


def slice_of(name: str, tensor: Array, rank: int, ranks: int) -> Array:
    """What one tensor-parallel rank holds, as TensorRT-LLM splits it; key heads are repeated."""
    module = name.split(".")[-2]
    if tensor.size == 1:
        return tensor
    if module == "qkv":
        query, key, value = np.split(tensor, [64, 96])
        heads = [np.split(part, 2)[rank * 2 // ranks] for part in (key, value)]
        if ranks == 2:
            heads = [np.split(part, ranks)[rank] for part in (key, value)]
        return np.concatenate([np.split(query, ranks)[rank], *heads])
    if module in ("fc", "gate", "lm_head", "vocab_embedding"):
        return np.split(tensor, ranks)[rank]
    if module in ("dense", "proj") and tensor.ndim > 1:
        return np.split(tensor, ranks, axis=1)[rank]
    return tensor


def split_tensors(checkpoint: Path, ranks: int) -> None:
    whole = tensors_of(checkpoint)
    for rank in range(ranks):
        parts = {name: slice_of(name, tensor, rank, ranks) for name, tensor in whole.items()}
        write_rank(checkpoint, rank, parts)
    mapping = {"world_size": ranks, "tp_size": ranks, "pp_size": 1}
    checkpoints.edit_config(checkpoint, mapping=mapping)


def split_layers(checkpoint: Path) -> None:
    """Two pipeline stages of one layer each; every stage counts its layers from zero."""
    first, second = {}, {}
    for name, tensor in tensors_of(checkpoint).items():
        if "layers.1." in name:
            second[name.replace("layers.1.", "layers.0.")] = tensor
        elif name.startswith(("lm_head", "transformer.ln_f")):
            second[name] = tensor
        else:
            first[name] = tensor
    write_rank(checkpoint, 0, first)
    write_rank(checkpoint, 1, second)
    mapping = {"world_size": 2, "tp_size": 1, "pp_size": 2}
    checkpoints.edit_config(checkpoint, mapping=mapping)


@pytest.mark.parametrize("recipe", ["none", "w8a16", "fp8"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_are_put_together(recipe: str, ranks: int, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    split_tensors(checkpoint, ranks)
    report = audited(checkpoint)
    assert report.findings == ()
    assert report.examined["reproduced_bit_for_bit"] == 16


@pytest.mark.parametrize(
    "name",
    [
        "transformer.layers.1.input_layernorm.weight",
        "transformer.layers.0.post_layernorm.weight",
        "transformer.ln_f.weight",
        f"{QKV}.prequant_scaling_factor",
        "transformer.layers.0.mlp.gate.prequant_scaling_factor",
    ],
)
def test_what_every_rank_holds_whole_is_the_same_on_all(name: str, tmp_path: Path) -> None:
    changed = checkpoints.exported("w4a16_awq_tp2", tmp_path)
    assert audited(changed).findings == ()
    checkpoints.edit_tensor(changed, name, lambda values: values * 2, rank=1)
    (finding,) = audited(changed).findings
    assert (finding.where, finding.taxonomy) == (name, "T14")
    assert finding.actual == "rank 1"


@pytest.mark.parametrize("recipe", ["fp8", "w8a16", "fp8_per_channel_per_token"])
def test_a_scale_that_is_wrong_on_the_second_rank_is_found(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    split_tensors(checkpoint, 2)
    name = "per_channel_scale" if "channel" in recipe else "weights_scaling_factor"
    scale = f"transformer.layers.1.mlp.proj.{name}"
    checkpoints.edit_tensor(checkpoint, scale, lambda s: s * np.float32(1.25), rank=1)
    assert audited(checkpoint).result == "fail"


RANK_SCALES = {"W8A16": "weights_scaling_factor", "FP8_PER_CHANNEL_PER_TOKEN": "per_channel_scale"}


def quantized_by_rank(algorithm: str, tmp_path: Path) -> Path:
    """Two ranks, the last linear of which each has quantized by itself."""
    checkpoint = checkpoints.exported(algorithm.lower(), tmp_path)
    split_tensors(checkpoint, 2)
    weight = SourceModel.open(checkpoints.SOURCE).rows("model.layers.1.mlp.down_proj.weight")
    for rank, own in enumerate(np.split(weight, 2, axis=1)):
        made = quantize_rows(recipe_for(algorithm), np.ascontiguousarray(own), 0.0, "bfloat16")
        codes = made.codes.astype(np.int8) if algorithm == "W8A16" else encode_e4m3(made.codes)
        changed = {"weight": codes, RANK_SCALES[algorithm]: made.scales.reshape(-1)}
        tensors = {f"transformer.layers.1.mlp.proj.{name}": one for name, one in changed.items()}
        checkpoints.edit_tensors(checkpoint, methodcaller("update", tensors), rank)
    return checkpoint


@pytest.mark.parametrize("algorithm", RANK_SCALES)
def test_ranks_that_were_quantized_each_for_itself_are_honest(
    algorithm: str, tmp_path: Path
) -> None:
    report = audited(quantized_by_rank(algorithm, tmp_path))
    assert report.findings == ()
    assert report.examined["lowest_share_of_equal_codes"] == 1.0


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("rows", [slice(7, 8), slice(None, None, 2), slice(None)])
@pytest.mark.parametrize("factor", [0.5, 1.003, 1.02, 1.5])
@pytest.mark.parametrize("algorithm", [*RANK_SCALES, "W8A8_SQ_PER_CHANNEL"])
def test_a_wrong_scale_of_one_rank_is_named_with_the_rank(
    algorithm: str, factor: float, rows: slice, rank: int, tmp_path: Path
) -> None:
    checkpoint = export(checkpoints.SOURCE, tmp_path / "checkpoint", algorithm, ranks=2)
    name = "transformer.layers.1.attention.dense"

    def spoil(scales: Array) -> None:
        scales[rows] *= np.float32(factor)

    suffix = RANK_SCALES.get(algorithm, "weights_scaling_factor")
    checkpoints.edit_tensor(checkpoint, f"{name}.{suffix}", spoil, rank=rank)
    (finding,) = audited(checkpoint).findings
    assert (finding.result, finding.where) == ("fail", f"{name} (rank {rank})")


def test_a_rank_quantized_for_itself_and_wrong_is_named(tmp_path: Path) -> None:
    checkpoint = quantized_by_rank("W8A16", tmp_path)
    scales = "transformer.layers.1.mlp.proj.weights_scaling_factor"
    checkpoints.edit_tensor(checkpoint, scales, lambda one: one * np.float32(1.02), rank=1)
    (finding,) = audited(checkpoint).findings
    assert finding.where == "transformer.layers.1.mlp.proj (rank 1)"
    assert finding.message == "every scale is 1.02 times what it should be"
    examined = audited(checkpoint).examined
    assert examined["tensor_parts"] == 16
    assert examined["errors"]["model.layers.1.mlp.down_proj"][1] > 2


def test_a_norm_that_one_rank_lacks_is_found(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16_awq_tp2", tmp_path)
    name = "transformer.layers.1.input_layernorm.weight"
    checkpoints.edit_tensors(checkpoint, lambda tensors: tensors.pop(name), rank=1)
    (finding,) = audited(checkpoint).findings
    assert (finding.where, finding.message) == (name, "only 1 of 2 ranks hold it")


@pytest.mark.parametrize("rank", [1, 3])
def test_copies_of_one_key_head_are_the_same(rank: int, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    split_tensors(checkpoint, 4)

    def spoil(weight: Array) -> None:
        weight[16] = -weight[16]  # the first row of the key head, after 16 of queries

    checkpoints.edit_tensor(checkpoint, f"{QKV}.weight", spoil, rank=rank)
    (finding,) = [one for one in audited(checkpoint).findings if one.check == "weights.ranks"]
    assert finding.where == f"{QKV}.weight (k)"
    assert finding.actual == f"rank {rank}"


def test_pipeline_stages_are_put_together(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    split_layers(checkpoint)
    assert audited(checkpoint).findings == ()


def test_a_fault_in_the_last_stage_has_its_own_layer_number(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    split_layers(checkpoint)
    name = "transformer.layers.0.mlp.proj.weights_scaling_factor"
    checkpoints.edit_tensor(checkpoint, name, lambda scales: scales * 1.5, rank=1)
    (finding,) = audited(checkpoint).findings
    assert finding.where == "transformer.layers.1.mlp.proj"


def test_a_scale_that_the_last_stage_lacks_has_its_own_layer_number(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    split_layers(checkpoint)
    local = "transformer.layers.0.mlp.proj.weights_scaling_factor"
    checkpoints.edit_tensors(checkpoint, lambda tensors: tensors.pop(local), rank=1)
    (finding,) = audited(checkpoint).findings
    assert finding.where == "transformer.layers.1.mlp.proj.weights_scaling_factor"
    assert finding.actual == "absent from rank1.safetensors"


def with_biases(directory: Path) -> tuple[Path, Path]:
    """A source whose q, k and v have biases, as Qwen2's, and its checkpoint."""
    source, checkpoint = checkpoints.source_copy(directory), checkpoints.exported("none", directory)
    random = np.random.default_rng(0)

    def to_source(arrays: dict[str, Array]) -> None:
        like = arrays["model.norm.weight"].dtype
        for part, rows in (("q", 64), ("k", 32), ("v", 32)):
            for layer in (0, 1):
                name = f"model.layers.{layer}.self_attn.{part}_proj.bias"
                arrays[name] = random.normal(size=rows).astype(like)

    checkpoints.edit_tensors(source, to_source)
    stored = SourceModel.open(source)

    def to_checkpoint(arrays: dict[str, Array]) -> None:
        like = arrays["transformer.ln_f.weight"].dtype
        for layer in (0, 1):
            prefix = f"model.layers.{layer}.self_attn"
            parts = [stored.rows(f"{prefix}.{part}_proj.bias") for part in "qkv"]
            name = f"transformer.layers.{layer}.attention.qkv.bias"
            arrays[name] = np.concatenate(parts).astype(like)

    checkpoints.edit_tensors(checkpoint, to_checkpoint)
    return source, checkpoint


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_biases_are_put_together(ranks: int, tmp_path: Path) -> None:
    source, checkpoint = with_biases(tmp_path)
    if ranks > 1:
        split_tensors(checkpoint, ranks)
    assert audited(checkpoint, source).findings == ()
    write_checkpoint_twin(source, checkpoint, tmp_path / "twin")
    twin = TensorFile.open(tmp_path / "twin" / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.bias"
    assert np.array_equal(twin[name].read(), SourceModel.open(source).rows(name))


def spoil(bias: Array) -> None:
    bias[70] += 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop(f"{QKV}.bias"), "the checkpoint has not"),
        (lambda arrays: spoil(arrays[f"{QKV}.bias"]), "1 of 128 values differ"),
        (
            lambda arrays: arrays.update({f"{QKV}.bias": arrays[f"{QKV}.bias"][:64]}),
            "the shape differs",
        ),
    ],
)
def test_a_wrong_bias_is_named(
    change: Callable[[dict[str, Array]], object], words: str, tmp_path: Path
) -> None:
    source, checkpoint = with_biases(tmp_path)
    checkpoints.edit_tensors(checkpoint, change)
    (finding,) = audited(checkpoint, source).findings
    assert finding.where == f"{QKV}.bias"
    assert words in finding.message


def test_a_bias_of_zeros_counts_as_none(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)

    def invent(arrays: dict[str, Array]) -> None:
        like = arrays["transformer.ln_f.weight"].dtype
        arrays[f"{QKV}.bias"] = np.zeros(128, like)

    checkpoints.edit_tensors(checkpoint, invent)
    assert audited(checkpoint).findings == ()


def with_norms(directory: Path) -> tuple[Path, Path]:
    """A source with query and key norms, as Qwen3's, and its checkpoint."""
    source, checkpoint = checkpoints.source_copy(directory), checkpoints.exported("none", directory)

    def add(names: list[str]) -> Callable[[dict[str, Array]], None]:
        def edit(arrays: dict[str, Array]) -> None:
            like = next(iter(arrays.values())).dtype
            arrays.update({name: np.linspace(1, 2, 16).astype(like) for name in names})

        return edit

    checkpoints.edit_tensors(
        source, add([f"model.layers.{n}.self_attn.{k}_norm.weight" for n in (0, 1) for k in "qk"])
    )
    checkpoints.edit_tensors(
        checkpoint,
        add(
            [f"transformer.layers.{n}.attention.{k}_layernorm.weight" for n in (0, 1) for k in "qk"]
        ),
    )
    return source, checkpoint


def test_query_and_key_norms_are_compared(tmp_path: Path) -> None:
    source, checkpoint = with_norms(tmp_path)
    assert audited(checkpoint, source).findings == ()
    name = "transformer.layers.1.attention.k_layernorm.weight"

    def zero(weight: Array) -> None:
        weight[3] = 0

    checkpoints.edit_tensor(checkpoint, name, zero)
    (finding,) = audited(checkpoint, source).findings
    assert finding.where == name


def reshape(array: Array) -> Array:
    return array.reshape(2, -1)


@pytest.mark.parametrize(
    ("recipe", "suffix", "edit"),
    [
        ("w8a16", "weights_scaling_factor", reshape),
        ("w8a16", "weights_scaling_factor", lambda a: a[:-1]),
        ("w8a16", "weight", lambda a: a.reshape(-1)),
        ("fp8", "weights_scaling_factor", lambda a: np.repeat(a, 64)),
        ("fp8", "activation_scaling_factor", lambda a: a[:0]),
        ("fp8", "activation_scaling_factor", lambda a: np.repeat(a, 64)),
        ("w4a16", "weights_scaling_factor", lambda a: a[:, :3]),
        ("w4a16", "weights_scaling_factor", lambda a: np.ascontiguousarray(a.T)),
        ("w4a16_awq", "prequant_scaling_factor", lambda a: a[:-1]),
        ("nvfp4", "weights_scaling_factor", lambda a: np.ascontiguousarray(a.T)),
        ("nvfp4", "weights_scaling_factor_2", lambda a: np.repeat(a, 2)),
    ],
)
def test_tensors_that_do_not_fit_their_linear_are_named(
    recipe: str, suffix: str, edit: Callable[[Array], Array], tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)
    name = f"transformer.layers.1.mlp.proj.{suffix}"
    checkpoints.edit_tensor(checkpoint, name, edit)
    (finding,) = audited(checkpoint).findings
    assert (finding.check, finding.result, finding.where) == ("weights.layout", "fail", name)


def test_a_scale_of_another_number_format_is_named(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    name = "transformer.layers.1.mlp.proj.weights_scaling_factor"

    def widen(arrays: dict[str, Array]) -> None:
        arrays[name] = arrays[name].astype(np.float64)

    checkpoints.edit_tensors(checkpoint, widen)
    (finding,) = audited(checkpoint).findings
    assert (finding.where, finding.actual) == (name, "F64")


@pytest.mark.parametrize("recipe", ["w8a16", "fp8", "w4a16", "nvfp4", "w4a16_awq"])
def test_noise_in_a_tensor_is_described(recipe: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported(recipe, tmp_path)

    def shuffle(weight: Array) -> None:
        block = weight[8:12].copy()
        weight[8:12] = block[:, np.random.default_rng(0).permutation(block.shape[1])]

    checkpoints.edit_tensor(checkpoint, "transformer.layers.1.mlp.proj.weight", shuffle)
    (finding,) = audited(checkpoint).findings
    assert finding.where == "transformer.layers.1.mlp.proj"
    assert "blocks in" in finding.message


def test_ranks_with_different_formats_are_named(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    split_tensors(checkpoint, 2)
    name = "transformer.layers.1.mlp.proj"

    def widen(arrays: dict[str, Array]) -> None:
        like = arrays["transformer.ln_f.weight"].dtype
        arrays[f"{name}.weight"] = arrays[f"{name}.weight"].astype(like)

    checkpoints.edit_tensors(checkpoint, widen, rank=1)
    (finding,) = audited(checkpoint).findings
    assert finding.message == "the ranks hold different number formats"
