"""Build specs from files: what is read, and how each mistake is told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginekeeper.errors import InputError, MissingError
from enginekeeper.specs.document import MAX_BYTES
from enginekeeper.specs.loader import load_variants, parse_spec
from enginekeeper.specs.problems import SpecError
from enginekeeper.specs.recipes import KvCache, RecipeName
from enginekeeper.specs.source import SourceKind

MINIMAL = """\
model: {name: tiny, path: weights}
targets: [cpu]
recipes: [none]
"""


def problems_of(text: str) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text.encode(), "spec.yaml")
    return [
        (problem.field, problem.what, " ".join(filter(None, (problem.expected, problem.remedy))))
        for problem in caught.value.problems
    ]


def only_problem(text: str) -> tuple[str, str, str]:
    (problem,) = problems_of(text)
    return problem


def test_a_minimal_spec_takes_every_default() -> None:
    spec = parse_spec(MINIMAL.encode(), "spec.yaml")

    assert spec.model.kind is SourceKind.PATH
    assert spec.recipes[0].recipe is RecipeName.NONE
    assert spec.recipes[0].kv_cache is KvCache.AUTO
    assert spec.toolchain == "inductor"
    assert (spec.parallel[0].tensor, spec.parallel[0].pipeline) == (1, 1)


def test_entries_may_be_spelled_out() -> None:
    spec = parse_spec(
        b"""
model: {name: m, s3: s3://models/llama}
targets: [{gpu: h100-sxm, driver: "580.95.05", cuda: "13.0", memory: 40GiB}]
recipes: [{recipe: w4a16, group_size: 64, kv_cache: int8, exclude_modules: ["*.mlp.gate"]}]
toolchain: tensorrt-llm-1.2.1
""",
        "spec.yaml",
    )

    assert spec.targets[0].memory == 40 << 30
    assert spec.recipes[0].exclude_modules == ("*.mlp.gate",)
    assert spec.recipes[0].part == "w4a16-kvint8"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(MINIMAL + "calibration: {data: text.jsonl}\n", encoding="utf-8")

    (variant,) = load_variants(file)

    assert variant.model.path == str(tmp_path / "weights")
    assert variant.calibration.data == str(tmp_path / "text.jsonl")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("parallel: [{}, {}]\n", "4:16: parallel[1]: two variants are called"),
        ("matrix:\n  exclude:\n  - recipe: w8a61\n", "6:5: matrix.exclude[0]: the rule fits no"),
        ("matrix: {exclude: [{tensor: 1}]}\n", "4:19: matrix.exclude: every variant is excluded"),
        (
            "matrix: {include: [{recipe: fp8, target: l4}, {recipe: none, target: cpu}]}\n",
            "4:47: matrix.include[1]: two variants are called",
        ),
    ],
)
def test_a_matrix_that_makes_no_sense_has_its_line(more: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(MINIMAL + more, encoding="utf-8")

    with pytest.raises(SpecError) as caught:
        load_variants(file)

    assert str(caught.value).startswith(f"{file}:{said}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nowhere\.yaml"):
        load_variants(tmp_path / "nowhere.yaml")


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_variants(tmp_path)


def test_a_problem_has_its_line_and_column() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(MINIMAL.encode() + b"limits:\n  max_batch_size: 8k\n", "spec.yaml")

    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.found) == (5, 19, '"8k"')
    assert str(caught.value).startswith("spec.yaml:5:19: limits.max_batch_size: ")


def test_all_problems_are_told_at_once_in_file_order() -> None:
    text = """\
model: {name: Bad Name, path: x, revisoin: 1}
targets: [cpu, h100]
recipes: [w8a16, fp9]
limits: {max_seq_len: 0}
colour: red
"""

    fields = [field for field, _, _ in problems_of(text)]

    assert fields == [
        "model.name", "model.revisoin", "targets[1]", "recipes[1]", "limits.max_seq_len", "colour"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("addition", "field", "says"),
    [
        ("limit: {}", "limit", "did you mean limits?"),
        ("limits: {max_batchsize: 1}", "limits.max_batchsize", "did you mean max_batch_size?"),
        ("limits: {max_batch_size: 1.5}", "limits.max_batch_size", "a whole number"),
        ("limits: {max_batch_size: true}", "limits.max_batch_size", "a whole number"),
        ('limits: {max_batch_size: "8"}', "limits.max_batch_size", "a whole number"),
        ("limits: {max_num_tokens: 8k}", "limits.max_num_tokens", "Tokens processed in one"),
        (
            "limits: {max_num_tokens: 1" + "0" * 40 + "}",
            "limits.max_num_tokens",
            "at most 2147483647",
        ),
        ("limits: {max_num_tokens: 99999999999}", "limits.max_num_tokens", "at most 2147483647"),
        ("limits: {max_input_len: 4096}", "limits.max_input_len", "max_seq_len, 2048"),
        ("limits: {kv_cache_tokens: 5}", "limits.kv_cache_tokens", "at least max_seq_len"),
        ("suite: Smoke", "suite", "a-z0-9"),
        ("toolchain: tensorrt-llm-1.2.2", "toolchain", "tensorrt-llm-1.2.1"),
        ("reference: {dtype: float16}", "reference.dtype", "float32, bfloat16, auto"),
        ("reference: {top_k: 0}", "reference.top_k", "at least 1"),
        ("acceptance: {confidence: 1.0}", "acceptance.confidence", "less than 1"),
        ("acceptance: {max_quality_kl: low}", "acceptance.max_quality_kl", "a number"),
        ("parallel: [{tensor: 0}]", "parallel[0].tensor", "at least 1"),
        ("parallel: []", "parallel", "entries, at least 1"),
        ("parallel:", "parallel", "a list"),
        ("parallel: 2", "parallel", "a list"),
        ("parallel: [2]", "parallel[0]", "a mapping"),
        ("calibration: {samples: 0}", "calibration.samples", "at least 1"),
        ("matrix: {exclude: [{}]}", "matrix.exclude[0]", "at least one of recipe"),
        ("matrix: {include: [{recipe: fp8}]}", "matrix.include[0].target", ""),
        ("format: 2", "format", "one of 1"),
    ],
)
def test_a_mistake_names_field_and_expectation(addition: str, field: str, says: str) -> None:
    found, _, expected = only_problem(MINIMAL + addition + "\n")

    assert found == field
    assert says in expected


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("max_fidelity_kl", "0"),
        ("max_fidelity_kl", ".nan"),
        ("max_perplexity_ratio", "0.9"),
        ("max_quality_kl", ".inf"),
        ("min_top1_agreement", "85"),
        ("confidence", "0.5"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(limit: str, value: str) -> None:
    policy = f"acceptance: {{{limit}: {value}}}"
    of_spec = MINIMAL + policy + "\n"
    of_recipe = MINIMAL.replace("[none]", f"[{{recipe: fp8, {policy}}}]")

    assert only_problem(of_spec)[0] == f"acceptance.{limit}"
    assert only_problem(of_recipe)[0] == f"recipes[0].acceptance.{limit}"


@pytest.mark.parametrize(
    ("entry", "field", "says"),
    [
        ("{gpu: h100-sxm, memory: 80 gigs}", "targets[0].memory", '"80GiB" (2^30)'),
        ("{gpu: h100-sxm, memory: 80gb}", "targets[0].memory", "did you mean GB"),
        ("{gpu: h100-sxm, memory: 8.5}", "targets[0].memory", "a number of bytes"),
        ("{gpu: h100-sxm, memory: 200GB}", "targets[0].memory", "at most 85520809984"),
        ("{gpu: h100-sxm, memory: -1}", "targets[0].memory", "0"),
        ("{gpu: h100-sxm, driver: 580.95}", "targets[0].driver", "put it in quotes"),
        ("{gpu: h100-sxm, driver: R580}", "targets[0].driver", "NVIDIA driver"),
        ("{gpu: h100-sxm, cuda: 13.0}", "targets[0].cuda", "put it in quotes"),
        ("{gpu: cpu, driver: '580'}", "targets[0].driver", "no driver"),
        ("H100-SXM", "targets[0]", "did you mean h100-sxm"),
        ("{label: x}", "targets[0].gpu", "GPU product from the table"),
        ("", "targets", "entries, at least 1"),
    ],
)
def test_a_wrong_target_says_what_a_target_is(entry: str, field: str, says: str) -> None:
    text = f"model: {{name: m, path: x}}\ntargets: [{entry}]\nrecipes: [none]\n"

    found, _, expected = only_problem(text)

    assert found == field
    assert says in expected


@pytest.mark.parametrize(
    ("entry", "field", "says"),
    [
        ("w8a61", "recipes[0]", "did you mean w8a16"),
        ("{recipe: w4a16, group_size: 96}", "recipes[0].group_size", "16, 32, 64, 128, 256"),
        ("{recipe: fp8, group_size: 64}", "recipes[0].group_size", "no group_size"),
        ("{recipe: fp8, kv_cache: fp4}", "recipes[0].kv_cache", "auto, fp8, int8"),
        ("{recipe: fp8, repair: off}", "recipes[0].repair", ""),
        ("{recipe: fp8, label: A B}", "recipes[0].label", "lower-case"),
        ("{recipe: fp8, exclude_modules: lm_head}", "recipes[0].exclude_modules", "a list"),
        ("{recipe: fp8, acceptance: {max_quality: 1}}", "recipes[0].acceptance.max_quality", "did"),
        ("8", "recipes[0]", "a mapping"),
        ("{kv_cache: fp8}", "recipes[0].recipe", "quantization algorithm"),
    ],
)
def test_a_wrong_recipe_says_what_a_recipe_is(entry: str, field: str, says: str) -> None:
    text = f"model: {{name: m, path: x}}\ntargets: [cpu]\nrecipes: [{entry}]\n"

    if "repair: off" in entry:  # YAML 1.2: off is text, so this is right
        assert parse_spec(text.encode(), "s").recipes[0].repair == "off"
        return
    found, _, expected = only_problem(text)

    assert found == field
    assert says in expected


COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"


@pytest.mark.parametrize(
    ("source", "field", "says"),
    [
        ("", "model", "exactly one of path, repo, s3, gguf"),
        ("path: x, s3: s3://bucket/y", "model", "keep one of: path, s3"),
        ("repo: a/b", "model.revision", "the commit of the repository"),
        ("repo: a/b, revision: main", "model.revision", "allow_moving_revision: true"),
        (f"repo: a/b, revision: {COMMIT.upper()}", "model.revision", "lower-case hexadecimal"),
        (f"repo: a/b, revision: {COMMIT[:39]}", "model.revision", "40"),
        (f"repo: ab, revision: {COMMIT}", "model.repo", "OWNER/NAME"),
        (f"repo: a/.., revision: {COMMIT}", "model.repo", "OWNER/NAME"),
        ("path: x, revision: main", "model.revision", "without repo"),
        ("s3: https://bucket/y", "model.s3", "s3://BUCKET/PREFIX"),
        ("s3: 's3://bucket/y?versionId=1'", "model.s3", "s3://BUCKET/PREFIX"),
        ("gguf: {package: p, version: 0.1.2, member: ../a.gguf}", "model.gguf.member", ".gguf"),
        ("gguf: {package: p, version: 0.1.2, member: /a.gguf}", "model.gguf.member", ".gguf"),
        ("gguf: {package: p, version: 0.1.2, member: a.bin}", "model.gguf.member", ".gguf"),
        ("gguf: {package: p, version: '>=1', member: a.gguf}", "model.gguf.version", "Exact"),
        ("gguf: {package: p, version: 0.1, member: a.gguf}", "model.gguf.version", "quotes"),
        ("gguf: {package: '-r x', version: '1', member: a.gguf}", "model.gguf.package", "index"),
        ("path: x, trust_remote_code: true", "model.trust_remote_code", "one of name"),
    ],
)
def test_a_wrong_source_says_what_a_source_is(source: str, field: str, says: str) -> None:
    text = f"model: {{name: m, {source}}}\ntargets: [cpu]\nrecipes: [none]\n"

    found, _, expected = only_problem(text)

    assert found == field
    assert says in expected


def test_a_moving_revision_is_accepted_when_asked_for() -> None:
    text = MINIMAL.replace(
        "path: weights", "repo: a/b, revision: main, allow_moving_revision: true"
    )

    assert parse_spec(text.encode(), "s").model.revision == "main"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "model: {name: b, path: y}\n", "is given twice, first in line 1"),
        (MINIMAL + "limits: &a {}\n", "defines an anchor"),
        (MINIMAL + "limits: *a\n", "uses an alias"),
        (MINIMAL + "<<: {}\n", "as a key"),
        (MINIMAL + "1: {}\n", "as a key"),
        (MINIMAL + "limits: !!map {}\n", "has a tag"),
        (MINIMAL + "description: !!python/object:os.system x\n", "has a tag"),
        (MINIMAL + 'description: "\\ud800"\n', "half of a UTF-16 pair"),
        (MINIMAL + "---\na: b\n", "more than one document"),
        ("a: [", "not YAML"),
        ("\t", "not YAML"),
        ("a: \x01", "not YAML"),
        ("[" * 30, "nested deeper"),
        ("[" + "1," * 10_001 + "]", "more than 10000 values"),
        ("a" * (MAX_BYTES + 1), "too large"),
        ("", "wrong kind"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str, says: str) -> None:
    assert any(says in what for _, what, _ in problems_of(text))


def test_bytes_that_are_no_text_are_located() -> None:
    with pytest.raises(SpecError, match=r"s:2:2: not UTF-8"):
        parse_spec(b"a: b\n \xff", "s")


def test_a_bomb_of_anchors_expands_nothing() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
    )
    started = time.perf_counter()

    problems = problems_of(bomb)

    assert time.perf_counter() - started < 10  # measured: 0.1
    assert sum("alias" in what for _, what, _ in problems) == 290


def test_an_error_is_also_data() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(MINIMAL.encode() + b"suite: X\nformat: 9\n", "spec.yaml")

    data = json.loads(json.dumps(caught.value.as_dict()))

    assert [problem["field"] for problem in data["problems"]] == ["suite", "format"]
    assert data["where"] == "spec.yaml:4:8"


def refusal_of(data: bytes) -> SpecError | None:
    """Returns how a file is refused, None if it is not; anything but a SpecError escapes."""
    try:
        parse_spec(data, "fuzz")
    except SpecError as error:
        return error
    return None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_spec_or_a_spec_error(data: bytes) -> None:
    refusal = refusal_of(data)

    assert refusal is not None  # two hundred random bytes are no spec
    assert str(refusal)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["cpu", "h100-sxm", "fp8", "w4a16", "*a", "builtin", "80GB"]),
)
_KEYS = st.sampled_from(
    ["model", "name", "path", "repo", "revision", "targets", "recipes", "recipe", "gpu", "limits",
     "max_seq_len", "group_size", "parallel", "tensor", "matrix", "exclude", "include", "target",
     "acceptance", "gguf", "package", "x"]
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_tree_gives_a_spec_or_problems_inside_the_file(tree: dict[str, Any]) -> None:
    text = json.dumps(tree, indent=1)
    refusal = refusal_of(text.encode())

    lines = text.count("\n") + 1
    for problem in () if refusal is None else refusal.problems:
        assert 1 <= problem.line <= lines
        assert problem.what


@settings(deadline=None)
@given(st.data())
def test_a_damaged_spec_never_ends_in_a_traceback(data: st.DataObject) -> None:
    whole = (MINIMAL + "limits: {max_batch_size: 4}\nmatrix: {exclude: [{tensor: 2}]}\n").encode()
    at = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(at, len(whole)))
    damaged = whole[:at] + data.draw(st.binary(max_size=6)) + whole[cut:]

    refusal = refusal_of(damaged)

    assert refusal is None or str(refusal)
