"""The name under which a reference is stored once and found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry.digests import Digest, digest_document


@dataclass(frozen=True)
class ReferenceInputs:
    """Everything that a reference's numbers depend on.

    Variants of one model share it: no recipe, engine or GPU is part of it. The tokens stand beside
    the suite because another tokenizer makes other probes of the same text.
    """

    model_digest: Digest
    suite_digest: Digest
    tokens_digest: Digest
    vllm_version: str
    dtype: str
    top_k: int
    greedy: Mapping[str, int]
    """`prefix` and `tokens`, as in the step's job."""


def reference_key(inputs: ReferenceInputs) -> Digest:
    """Names a reference by what it was made from, so that it is made once and reused."""
    return digest_document(
        {
            "model": str(inputs.model_digest),
            "suite": str(inputs.suite_digest),
            "tokens": str(inputs.tokens_digest),
            "vllm": inputs.vllm_version,
            "dtype": inputs.dtype,
            "top_k": inputs.top_k,
            "greedy": dict(inputs.greedy),
        },
        "ek-reference-v1",
    )
