"""Faults of the stored codes: shifted, reordered, in another's place, lost or flipped."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from enginekeeper.faults.draft import Draft, InapplicableError
from enginekeeper.faults.fault import Fault, Target
from enginekeeper.faults.linear_edit import LinearEdit, each_linear, part_rows
from enginekeeper.validation.numerics.recipes import LinearRecipe, WeightFormat, quantize_rows

Generator = np.random.Generator
Indices = npt.NDArray[np.intp]

_INTEGERS = (WeightFormat.INT4_GROUP, WeightFormat.INT8_CHANNEL)
_TABLES = ("transformer.vocab_embedding", "lm_head")


def _shifted(linear: LinearEdit, dose: float, _: Generator) -> None:
    _integers_only(linear)
    linear.codes = linear.codes + round(dose)


def _some_shifted(linear: LinearEdit, dose: float, random: Generator) -> None:
    """Shifts by one the integers of a share of the groups, or of the rows where there are none."""
    _integers_only(linear)
    codes = linear.codes
    groups = codes.reshape(linear.scales.size, -1)
    count = max(round(len(groups) * dose), 1)
    groups[random.choice(len(groups), count, replace=False)] += 1
    linear.codes = codes


def _offset_binary(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    """Unsigned integers with a zero point, read as signed: the top bit is exchanged."""
    _integers_only(linear)
    half = 8 if linear.format is WeightFormat.INT4_GROUP else 128
    linear.codes = (linear.codes + 2 * half) % (2 * half) - half


def _nibbles(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    if linear.format not in (WeightFormat.INT4_GROUP, WeightFormat.NVFP4):
        raise InapplicableError("two weights do not share a byte here", where=linear.name)
    stored = linear.tensor("weight").view(np.uint8)
    swapped = (stored >> np.uint8(4)) | (stored << np.uint8(4))
    linear.put("weight", swapped.view(linear.tensor("weight").dtype))


def _packed_along_columns(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    if linear.format is not WeightFormat.INT4_GROUP:
        raise InapplicableError("the weight is not packed INT4", where=linear.name)
    codes = linear.codes
    pairs = codes.reshape(len(codes), -1, 2)
    linear.codes = np.concatenate([pairs[:, :, 0], pairs[:, :, 1]], axis=1)


def _columns(linear: LinearEdit, dose: float, random: Generator) -> None:
    """Permutes a share of the input columns among themselves: act-order that was not applied."""
    codes = linear.codes
    count = max(round(codes.shape[1] * dose), 2)
    chosen = random.choice(codes.shape[1], count, replace=False)
    codes[:, chosen] = codes[:, np.roll(chosen, 1)]
    linear.codes = codes


def _rows(linear: LinearEdit, dose: float, random: Generator) -> None:
    codes = linear.codes
    chosen = random.choice(len(codes), max(round(dose), 2), replace=False)
    codes[chosen] = codes[np.roll(chosen, 1)]
    linear.codes = codes


def _two_heads(linear: LinearEdit) -> slice:
    """Returns the rows of v, or of q where v has one head only."""
    parts, size = part_rows(linear), linear.draft.geometry.head_size
    part = next((p for p in (parts["v"], parts["q"]) if p.stop - p.start >= 2 * size), None)
    if part is None:
        raise InapplicableError("there are no two heads on a rank", where=linear.name)
    return part


def _take_rows(linear: LinearEdit, here: Indices, there: Indices) -> None:
    """Gives rows the codes, and the scales where each row has its own, of other rows."""
    codes = linear.codes
    codes[here] = codes[there]
    linear.codes = codes
    if linear.format is not WeightFormat.PLAIN and len(linear.scales) > 1:
        scales = linear.scales
        scales[here] = scales[there]
        linear.scales = scales


def _heads(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    """Exchanges two heads of v, or of q where there is one of v, codes and scales alike."""
    part, size = _two_heads(linear), linear.draft.geometry.head_size
    two = np.arange(part.start, part.start + 2 * size)
    _take_rows(linear, two, np.roll(two, size))


def _key_head_repeated(linear: LinearEdit, _dose: float, _random: Generator) -> None:
    """The last head of v is a copy of the one before: a grouped head given to the wrong rank."""
    part, size = _two_heads(linear), linear.draft.geometry.head_size
    last = np.arange(part.stop - size, part.stop)
    _take_rows(linear, last, last - size)


def _tail(linear: LinearEdit, dose: float, _random: Generator) -> None:
    """The last bytes of the tensor are zero: a shard that was cut short and filled up."""
    weight = linear.tensor("weight")
    weight.reshape(-1).view(np.uint8)[-max(round(weight.nbytes * dose), 1) :] = 0


def _repeated_tail(linear: LinearEdit, dose: float, _random: Generator) -> None:
    weight = linear.tensor("weight")
    flat = weight.reshape(-1).view(np.uint8)
    count = max(round(len(flat) * dose), 1)
    flat[-count:] = flat[-2 * count : -count]


def _zero_rows(linear: LinearEdit, dose: float, random: Generator) -> None:
    codes = linear.codes
    codes[random.choice(len(codes), max(round(dose), 1), replace=False)] = 0
    linear.codes = codes


def _zero_columns(linear: LinearEdit, dose: float, random: Generator) -> None:
    codes = linear.codes
    codes[:, random.choice(codes.shape[1], max(round(dose), 1), replace=False)] = 0
    linear.codes = codes


def _flipped(linear: LinearEdit, dose: float, random: Generator) -> None:
    """Flips the given bit of one weight; bit 0 is the lowest of a code."""
    weight, bit = linear.tensor("weight"), round(dose)
    if linear.format is WeightFormat.PLAIN:
        words = weight.reshape(-1).view(np.uint16 if weight.itemsize == 2 else np.uint32)  # noqa: PLR2004
    else:
        words = weight.reshape(-1).view(np.uint8)
    words[random.integers(len(words))] ^= words.dtype.type(1 << bit)


def _not_a_number(linear: LinearEdit, _dose: float, random: Generator) -> None:
    if linear.format in _INTEGERS or linear.format is WeightFormat.NVFP4:
        raise InapplicableError("the format has no NaN", where=linear.name)
    codes = linear.codes
    codes.reshape(-1)[random.integers(codes.size)] = np.nan
    linear.codes = codes


def _integers_only(linear: LinearEdit) -> None:
    if linear.format not in _INTEGERS:
        raise InapplicableError("the weight is not made of integers", where=linear.name)


def _table_rows(draft: Draft, target: Target, dose: float, *, swap: bool) -> tuple[str, ...]:
    """Damages rows of the embedding (`first`) or of the head, where one is stored."""
    name = _TABLES[0] if target.layers == "first" else _TABLES[1]
    for rank in range(len(draft.ranks)):
        weight = draft.get(rank, f"{name}.weight")
        chosen = target.random(name).choice(len(weight), max(round(dose), 1 + swap), replace=False)
        weight[chosen] = weight[np.roll(chosen, 1)] if swap else 0
    return (name,)


def _rows_zeroed(draft: Draft, target: Target, dose: float) -> tuple[str, ...]:
    return _table_rows(draft, target, dose, swap=False)


def _rows_swapped(draft: Draft, target: Target, dose: float) -> tuple[str, ...]:
    return _table_rows(draft, target, dose, swap=True)


def _file_cut(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
    draft.cut_bytes = round(dose)
    return (f"rank{len(draft.ranks) - 1}.safetensors",)


def _head_quantized(draft: Draft, _target: Target, dose: float) -> tuple[str, ...]:
    """Rounds the head, which every recipe excludes, to INT4 groups; its format stays."""
    recipe = LinearRecipe(WeightFormat.INT4_GROUP, group_size=round(dose))
    for rank in range(len(draft.ranks)):
        weight = draft.get(rank, "lm_head.weight")
        if round(dose) < 1 or weight.shape[1] % round(dose):
            raise InapplicableError("no such groups divide the head's columns", actual=dose)
        rounded = quantize_rows(recipe, weight.astype(np.float32), 0.0, "bfloat16").values
        draft.put(rank, "lm_head.weight", rounded.astype(weight.dtype))
    return ("lm_head",)


FAULTS = (
    Fault("zero-shift", "T4", "every integer of a linear is shifted: another zero point",
          each_linear(_shifted), "vLLM 26343, vLLM PR 38966", "integers", 1.0),
    Fault("zero-shift-some", "T4", "the integers of some groups are shifted by one",
          each_linear(_some_shifted), "GPTQModel 2350", "share of the groups", 1 / 64,
          also=("T25",)),
    Fault("zero-offset-binary", "T4", "unsigned integers are read as signed ones",
          each_linear(_offset_binary), "auto-round PR 2273", also=("T5", "T25")),
    Fault("nibbles-swapped", "T5", "the halves of every byte are exchanged",
          each_linear(_nibbles), "GPTQModel 2251", also=("T25",)),
    Fault("packed-along-columns", "T5", "INT4 is unpacked along the wrong axis",
          each_linear(_packed_along_columns), "GPTQModel 2251", also=("T25",)),
    Fault("columns-permuted", "T5", "input columns are in another order: act-order not applied",
          each_linear(_columns), "AutoGPTQ 201, vLLM 7374", "share of the columns", 1.0,
          also=("T25", "T3")),
    Fault("heads-swapped", "T14", "two attention heads are exchanged", each_linear(_heads),
          "vLLM 1735, TensorRT-LLM PR 6447", also=("T25",)),
    Fault("head-repeated", "T14", "a head is a copy of its neighbour",
          each_linear(_key_head_repeated), "SGLang PR 20967", also=("T25",)),
    Fault("tail-zero", "T25", "the tensor's last bytes are zero", each_linear(_tail), "",
          "share of the bytes", 1 / 64),
    Fault("tail-repeated", "T25", "the tensor's last bytes repeat those before",
          each_linear(_repeated_tail), "", "share of the bytes", 1 / 64, also=("T5", "T14")),
    Fault("rows-zero", "T25", "rows of a weight are zero", each_linear(_zero_rows), "", "rows"),
    Fault("columns-zero", "T25", "columns of a weight are zero", each_linear(_zero_columns), "",
          "columns", also=("T9", "T5")),
    Fault("rows-permuted", "T25", "rows of a weight are in another order", each_linear(_rows), "",
          "rows", 2.0, also=("T5", "T14")),
    Fault("bit-flip", "T25", "one bit of one stored code is flipped", each_linear(_flipped), "",
          "bit", 6.0, also=("T5", "T20")),
    Fault("weight-nan", "T20", "one weight is NaN", each_linear(_not_a_number),
          "vLLM 14126", also=("T25",)),
    Fault("table-rows-zero", "T25", "rows of the embedding (first) or the head are zero",
          _rows_zeroed, "", "rows", scope="layer"),
    Fault("table-rows-swapped", "T25", "rows of the embedding (first) or the head are exchanged",
          _rows_swapped, "", "rows", 2.0, scope="layer"),
    Fault("file-cut-short", "T25", "the file ends before its last tensor does", _file_cut, "",
          "bytes", 4096.0, scope="model"),
    Fault("head-quantized", "T8", "the head is rounded to INT4 although it is excluded",
          _head_quantized, "auto-round 1283, TensorRT-LLM PR 3567", "columns in a group", 64.0,
          scope="model", also=("T25", "T1")),
)  # fmt: skip
