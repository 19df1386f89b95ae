"""The file form of a build spec.

A spec says what should exist: one model, and the lists whose product is the matrix of variants
(targets x recipes x parallel), with what all of them share. Units are in each field's description;
`schema.py` turns this module into the JSON Schema that ships with the specs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from enginekeeper.specs.acceptance import AcceptanceOverride
from enginekeeper.specs.build_options import Build
from enginekeeper.specs.fallback import Fallback
from enginekeeper.specs.form import FORM, did_you_mean, fault
from enginekeeper.specs.llm_api import Backend
from enginekeeper.specs.llm_options import LlmOptions
from enginekeeper.specs.profiles import toolchain_profiles
from enginekeeper.specs.recipes import KvCache, RecipeEntry
from enginekeeper.specs.source import ModelSource
from enginekeeper.specs.targets import TargetEntry

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A whole number that TensorRT-LLM keeps in 32 bits."""

Ranks = Annotated[int, Field(ge=1, le=4096)]


SuiteName = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,70}[a-z0-9])?$")]
"""A suite, with or without `-vN`; whether there is one is known on the machine that scores."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class Parallel:
    """How one engine is spread over GPUs."""

    tensor: Ranks = 1
    """GPUs that share every layer (tensor parallel)."""

    pipeline: Ranks = 1
    """Groups of GPUs that hold consecutive layers (pipeline parallel)."""

    @property
    def part(self) -> str:
        """Its part of an identifier: `tp2`, or `tp2-pp4`."""
        return f"tp{self.tensor}" + (f"-pp{self.pipeline}" if self.pipeline > 1 else "")


@dataclass(frozen=True, kw_only=True, config=FORM)
class Calibration:
    """The text that is run through the model to find the ranges of its activations."""

    data: Annotated[str, Field(min_length=1)] = "builtin"
    """builtin (the text that ships with Enginekeeper), or a JSON Lines file with a text field."""

    samples: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Texts drawn from the data, without repetition."""

    max_tokens: Annotated[int, Field(ge=8, le=1_000_000)] = 64
    """Tokens kept of each text, from its start. With 16 samples 1024 tokens: AWQ on two CPU cores
    takes five minutes for a 135M model then; TensorRT-LLM's own 512 x 512 would take a day."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1234
    """Seed of the draw; 1234 is TensorRT-LLM's."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class Limits:
    """The largest requests an engine is built for."""

    max_batch_size: Count = 8
    """Requests processed together."""

    max_input_len: Count = 1024
    """Tokens of one prompt."""

    max_seq_len: Count = 2048
    """Tokens of one request, prompt and answer together."""

    max_num_tokens: Count = 8192
    """Tokens processed in one iteration, over all requests together."""

    kv_cache_tokens: Count | None = None
    """Tokens whose keys and values must fit in memory at once, over all requests; if left out,
    max_batch_size x max_seq_len."""

    def __post_init__(self) -> None:
        if self.max_input_len > self.max_seq_len:
            raise fault(
                "a prompt longer than a request",
                expected=f"at most max_seq_len, {self.max_seq_len}",
                field="max_input_len",
            )
        if self.kv_cache_tokens is not None and self.kv_cache_tokens < self.max_seq_len:
            raise fault(
                "the longest request would not fit",
                expected=f"at least max_seq_len, {self.max_seq_len}",
                field="kv_cache_tokens",
            )

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values must fit in memory at once."""
        return self.kv_cache_tokens or self.max_batch_size * self.max_seq_len


@dataclass(frozen=True, kw_only=True, config=FORM)
class Reference:
    """How the unquantized source model is scored under vLLM, as the yardstick."""

    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Arithmetic of the reference; auto is float32."""

    top_k: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most probable tokens kept for each position; the rest count as one."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class ExcludeRule:
    """Leaves out the variants that fit every field given; patterns may use * ? and [abc]."""

    recipe: Annotated[str, Field(min_length=1)] | None = None
    """Pattern for the recipe's part of the identifier, such as w4a*."""

    target: Annotated[str, Field(min_length=1)] | None = None
    """Pattern for the target's part of the identifier, such as a100-*."""

    kv_cache: KvCache | None = None
    """Format of the KV cache."""

    tensor: Ranks | None = None
    """Tensor parallel size."""

    pipeline: Ranks | None = None
    """Pipeline parallel size."""

    def __post_init__(self) -> None:
        given = (self.recipe, self.target, self.kv_cache, self.tensor, self.pipeline)
        if all(value is None for value in given):
            raise fault(
                "an empty rule would leave out everything",
                expected="at least one of recipe, target, kv_cache, tensor, pipeline",
            )


@dataclass(frozen=True, kw_only=True, config=FORM)
class IncludeRule:
    """Adds one variant that the product of the lists does not have."""

    recipe: RecipeEntry
    """Recipe of the added variant, as in recipes."""

    target: TargetEntry
    """Target of the added variant, as in targets."""

    parallel: Parallel = Parallel()
    """Parallel sizes of the added variant."""


@dataclass(frozen=True, kw_only=True, config=FORM)
class Matrix:
    """Exceptions from the product of targets, recipes and parallel."""

    exclude: tuple[ExcludeRule, ...] = ()
    """Variants of the product to leave out; a rule that fits none is an error."""

    include: tuple[IncludeRule, ...] = ()
    """Variants to add to the product, after exclusion."""


def _known_toolchain(name: str) -> str:
    known = toolchain_profiles()
    if name not in known:
        raise fault(
            "no such toolchain",
            expected=f"one of {', '.join(known)}",
            remedy=did_you_mean(name, known),
        )
    return name


ToolchainName = Annotated[
    str,
    AfterValidator(_known_toolchain),
    WithJsonSchema({"type": "string", "enum": list(toolchain_profiles())}),
]


@dataclass(frozen=True, kw_only=True, config=FORM)
class BuildSpec:
    """What should exist: a model, and the matrix of engines to build and prove for it."""

    format: Literal[1] = 1
    """Version of this file form."""

    description: Annotated[str, Field(max_length=2000)] | None = None
    """What the spec is for, to a person; changes no build."""

    model: ModelSource
    """The model: its name and where its weights come from."""

    targets: Annotated[tuple[TargetEntry, ...], Field(min_length=1, max_length=100)]
    """What engines are built for: GPU products, or cpu."""

    recipes: Annotated[tuple[RecipeEntry, ...], Field(min_length=1, max_length=100)]
    """Quantization recipes to apply."""

    parallel: Annotated[tuple[Parallel, ...], Field(min_length=1, max_length=100)] = (Parallel(),)
    """Parallel sizes to build for."""

    calibration: Calibration = Calibration()
    """Text that is run through the model by recipes that need it."""

    limits: Limits = Limits()
    """The largest requests the engines are built for."""

    toolchain: ToolchainName = "inductor"
    """What builds the engines: inductor, a TensorRT-LLM release such as tensorrt-llm-1.2.1, or a
    double of one, simulated-tensorrt-llm-1.2.1, whose engines are never deployed."""

    fallback: Fallback = "none"
    """What stands in for the engines of a model that only vLLM serves: none (it is refused), or
    vllm, a vLLM serving bundle of the model as it is, to which no recipe is applied."""

    build: Build = Build()
    """Options of trtllm-build, for TensorRT-LLM toolchains."""

    backend: Backend = "engine"
    """What a TensorRT-LLM toolchain makes: engine (trtllm-build), or pytorch (1.0 and later): a
    bundle for the PyTorch backend, of a checkpoint, its LLM-API options and warm caches."""

    llm_api: LlmOptions | None = None
    """LLM-API options of a bundle for the PyTorch backend; the limits are put in by themselves."""

    acceptance: AcceptanceOverride = AcceptanceOverride()
    """How far an engine may be from its source and still be deployable; what is left out depends
    on the recipe."""

    suite: SuiteName = "smoke"
    """Probe suite that engines are compared on: smoke (minutes on a CPU), standard, deep, or one's
    own (`ek suite list`)."""

    reference: Reference = Reference()
    """How the source model is scored as the yardstick."""

    matrix: Matrix = Matrix()
    """Variants to leave out of the product of targets, recipes and parallel, or to add to it."""
