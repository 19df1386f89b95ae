"""The engine key moves with everything that changes an engine, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.compatibility.decision import Judgement, decide
from enginekeeper.compatibility.places import Place
from enginekeeper.compatibility.placing import Effect
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.orchestration.keys import (
    Host,
    build_document,
    calibration_path,
    engine_key,
    external_key,
    local_environment,
)
from enginekeeper.orchestration.tools import Maker, Tools
from enginekeeper.specs.variants import Variant
from registry.digests import Digest, digest_bytes
from registry.environments import GpuEnvironment
from registry.types import Result
from tests.factories.benches import HOST, TOOLS, variants_of
from tests.factories.registry import WEIGHTS


def one(directory: Path, recipe: str = "w8a16", more: str = "") -> Variant:
    (variant,) = variants_of(directory, f"[{recipe}]", more)
    return variant


def built_by(toolchain: str, maker: Maker) -> Tools:
    return replace(TOOLS, builders={**TOOLS.builders, toolchain: maker})


def digest(variant: Variant, weights: Digest = WEIGHTS) -> Digest:
    return engine_key(variant, weights, HOST, TOOLS).digest()


def test_a_key_binds_weights_machine_and_tools(tmp_path: Path) -> None:
    variant = one(tmp_path)
    places = [
        (WEIGHTS, HOST, TOOLS),
        (digest_bytes(b"others"), HOST, TOOLS),
        (WEIGHTS, replace(HOST, instruction_set=("avx2",)), TOOLS),
        (WEIGHTS, replace(HOST, architecture="aarch64"), TOOLS),
        (WEIGHTS, replace(HOST, system="darwin"), TOOLS),
        (WEIGHTS, HOST, replace(TOOLS, torch="2.14.0+cpu")),
        (WEIGHTS, HOST, replace(TOOLS, modelopt="0.48.0")),
        (WEIGHTS, HOST, replace(TOOLS, quantizer=replace(TOOLS.quantizer, lock="sha256:newer"))),
        (WEIGHTS, HOST, replace(TOOLS, quantizer=replace(TOOLS.quantizer, code="newer"))),
        (WEIGHTS, HOST, replace(TOOLS, repairs="newer")),
        (WEIGHTS, HOST, built_by("inductor", Maker("sha256:newer", "ek-steps-v1:compile"))),
        (WEIGHTS, HOST, built_by("inductor", Maker("sha256:inductor", "newer"))),
    ]
    keys = [engine_key(variant, *place).digest() for place in places]
    assert len(set(keys)) == len(places)
    assert keys[0] == engine_key(variant, *places[0]).digest()


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("w8a16, kv_cache: fp8", ""),
        ("w8a16, exclude_modules: ['*.mlp.*']", ""),
        ("w8a16, repair: 'off'", ""),
        ("fp8", ""),
        ("w4a16, group_size: 64", ""),
        ("w4a16, group_size: 32", ""),
    ],
)
def test_whatever_changes_the_checkpoint_changes_the_key(
    tmp_path: Path, recipe: str, more: str
) -> None:
    changed = one(tmp_path, "{recipe: " + recipe + "}", more)
    assert digest(changed) != digest(one(tmp_path))


def test_an_option_of_the_builder_changes_the_key_only_if_it_is_given(tmp_path: Path) -> None:
    plain, given = (
        build_document(one(tmp_path, more=more)) for more in ("", "\nbuild: {reduce_fusion: false}")
    )

    assert "build" not in plain
    assert given == {**plain, "build": {"reduce_fusion": False}}


def test_limits_change_the_key(tmp_path: Path) -> None:
    variant = one(tmp_path)
    smaller = replace(variant, limits=replace(variant.limits, max_num_tokens=64))
    assert digest(smaller) != digest(variant)


@pytest.mark.parametrize(
    "more",
    ["acceptance: {max_quality_kl: 0.001}\n", "suite: standard\n", "reference: {top_k: 5}\n"],
)
def test_what_an_engine_is_judged_by_does_not_change_its_key(tmp_path: Path, more: str) -> None:
    assert digest(one(tmp_path, more=more)) == digest(one(tmp_path))


def test_a_label_does_not_change_the_key(tmp_path: Path) -> None:
    assert digest(one(tmp_path, "{recipe: w8a16, label: mine}")) == digest(one(tmp_path))


@pytest.mark.parametrize(("recipe", "moves"), [("w8a16", False), ("fp8", True)])
def test_calibration_counts_only_where_it_is_used(
    tmp_path: Path, recipe: str, *, moves: bool
) -> None:
    seeded = one(tmp_path, recipe, "calibration: {seed: 7}\n")
    assert (digest(seeded) != digest(one(tmp_path, recipe))) is moves


def test_calibration_is_named_by_its_bytes_not_by_its_path(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.jsonl" for name in "abc")
    for path, text in ((first, "same"), (second, "same"), (third, "other")):
        path.write_text(f'{{"text": "{text}"}}\n')
    keys = [digest(one(tmp_path, "fp8", f"calibration: {{data: '{p}'}}\n")) for p in (
        first, second, third
    )]  # fmt: skip
    assert keys[0] == keys[1] != keys[2]


def test_absent_calibration_data_is_named(tmp_path: Path) -> None:
    variant = one(tmp_path, "fp8", f"calibration: {{data: '{tmp_path}/absent.jsonl'}}\n")
    with pytest.raises(InputError, match=r"no such calibration data") as caught:
        calibration_path(variant)
    assert caught.value.where == "tiny.fp8.tp1.cpu: calibration.data"


def test_code_that_repairs_counts_only_where_it_may(tmp_path: Path) -> None:
    variant = one(tmp_path, "{recipe: w8a16, repair: 'off'}")
    newer = replace(TOOLS, repairs="newer")
    assert engine_key(variant, WEIGHTS, HOST, newer).digest() == digest(variant)


def test_a_checkpoint_of_somebody_else_was_made_by_no_tool_of_ours(tmp_path: Path) -> None:
    key = external_key(engine_key(one(tmp_path), WEIGHTS, HOST, TOOLS), digest_bytes(b"theirs"))
    assert key.hard["quantizer"] == f"external {digest_bytes(b'theirs')}"
    made_by = {name for name in key.hard if name.endswith(("_lock", "_code"))}
    assert made_by == {"builder_lock", "builder_code"}


GPU = """\
targets: [{gpu: h100-sxm, driver: "580.95.05", label: fleet}]
toolchain: tensorrt-llm-1.2.1
"""


def test_a_gpu_engine_is_bound_to_its_gpu_and_its_driver_is_soft(tmp_path: Path) -> None:
    tools = built_by("tensorrt-llm-1.2.1", Maker("sha256:trtllm", None))
    key = engine_key(one(tmp_path, more=GPU), WEIGHTS, HOST, tools)
    assert key.hard["compute_capability"] == "9.0"
    assert (key.hard["tensorrt_llm"], key.hard["tensorrt"]) == ("1.2.1", "10.14.1")
    assert "torch" not in key.hard
    assert "instruction_set" not in key.hard
    assert key.soft == {"driver": "580.95.05"}


@pytest.mark.parametrize(
    ("release", "tensorrt", "expected"),
    [
        ("1.2.1", "10.14.1.48", Effect.REUSE), ("1.2.1", "10.14.1", Effect.REUSE),
        ("1.2.1", "10.13.3.9", Effect.REBUILD), ("1.1.0", "10.14.1.48", Effect.REBUILD),
    ],
)  # fmt: skip
def test_the_toolchain_that_built_an_engine_is_a_place_for_it(
    tmp_path: Path, release: str, tensorrt: str, expected: Effect
) -> None:
    tools = built_by("tensorrt-llm-1.2.1", Maker("sha256:trtllm", None))
    key = engine_key(one(tmp_path, more=GPU), WEIGHTS, HOST, tools)
    gpu = GpuEnvironment(
        str(key.hard["gpu_product"]), "9.0", str(key.hard["cuda_runtime"]), "13.0", "580.95.05"
    )
    place = Place(
        gpu, os=HOST.system, cpu_architecture=HOST.architecture, tensorrt=tensorrt,
        tensorrt_llm=release,
    )  # fmt: skip
    decision = decide(key, [Judgement(gpu, Result.PASS)], place)
    assert decision.action is expected, decision.as_dict()


def test_a_gpu_engine_is_bound_to_what_made_it(tmp_path: Path) -> None:
    tools = built_by("tensorrt-llm-1.2.1", Maker("sha256:trtllm", "ek-steps-v1:build"))
    hard = engine_key(one(tmp_path, more=GPU), WEIGHTS, HOST, tools).hard
    assert (hard["builder_lock"], hard["builder_code"]) == ("sha256:trtllm", "ek-steps-v1:build")
    assert hard["quantizer_lock"] == TOOLS.quantizer.lock
    assert hard["quantizer_code"] == TOOLS.quantizer.code


def test_without_a_lock_of_its_toolchain_a_key_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="has no lock file on this host"):
        engine_key(one(tmp_path, more=GPU), WEIGHTS, HOST, TOOLS)


def test_the_local_environment_is_the_host_and_the_locked_torch() -> None:
    environment = local_environment(Host("linux", "x86_64", ("fma", "avx2")), "2.13.0")
    assert (environment.instruction_set, environment.torch) == (("avx2", "fma"), "2.13.0")


BUNDLE = "targets: [h100-sxm]\ntoolchain: simulated-tensorrt-llm-1.2.1\nbackend: pytorch\n"


def test_a_bundle_has_the_key_of_what_warms_it_up_and_of_its_options(tmp_path: Path) -> None:
    name = "simulated-tensorrt-llm-1.2.1"
    warmed = Maker("sha256:release", "ek-steps-v1:warm")
    tools = replace(built_by(name, Maker("sha256:release", "built")), warmers={name: warmed})
    options = BUNDLE + "llm_api: {enable_autotuner: false}\n"
    plain, tuned, engine = (
        engine_key(one(tmp_path, "fp8", more), WEIGHTS, HOST, tools)
        for more in (BUNDLE, options, BUNDLE.replace("pytorch", "engine"))
    )

    assert plain.hard["builder"] == "simulated_pytorch"
    assert plain.hard["builder_code"] == "ek-steps-v1:warm"
    assert (plain.hard["tensorrt_llm"], plain.hard.get("tensorrt")) == ("1.2.1", None)
    assert "repair_code" not in plain.hard
    assert len({one.digest() for one in (plain, tuned, engine)}) == 3
