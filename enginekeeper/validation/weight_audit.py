"""The weight audit: every tensor of a checkpoint against the source, streaming, no inference.

Rules:

- a quantized linear is compared with what its recipe makes of the same source tensor;
- what is not quantized equals the source bit for bit, after conversion to the checkpoint's dtype;
- a norm that differs is honest only if the linears it feeds take the difference back;
- scales are finite, positive and there; nothing is missing and nothing is left over.

What each check measures and where its limit comes from is in docs/audits.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from enginekeeper.validation import (
    activation_range,
    activation_scales,
    kv_cache,
    kv_range,
    rank_copies,
    rank_order,
    rank_slices,
    weight_vectors,
)
from enginekeeper.validation.checkpoint import AssembledLinear, Checkpoint
from enginekeeper.validation.config_rules import ARCHITECTURES
from enginekeeper.validation.findings import AuditReport, Finding
from enginekeeper.validation.numerics.computed_in import computed_in
from enginekeeper.validation.numerics.exact_smoothing import exact_divisor
from enginekeeper.validation.numerics.linears import MisshapenLinearError
from enginekeeper.validation.numerics.mapping import (
    Geometry,
    LinearPlace,
    Part,
    embedding_table,
    head_linear,
    layer_linears,
)
from enginekeeper.validation.numerics.recipes import (
    PLAIN,
    LinearRecipe,
    UnknownRecipeError,
    WeightFormat,
)
from enginekeeper.validation.numerics.reproduction import Reproduction, reproduce
from enginekeeper.validation.side_by_side import side_by_side
from enginekeeper.validation.source_model import SourceModel, UnusableModelError
from enginekeeper.validation.weight_census import (
    beyond_fp8,
    beyond_half,
    census,
    recipe_findings,
    unread,
)
from enginekeeper.validation.weight_certificate import Certificate, certify
from enginekeeper.validation.weight_counts import Counts
from enginekeeper.validation.weight_diagnosis import copied_layers, diagnose
from enginekeeper.validation.weight_judgement import (
    Judgement,
    judge,
    judge_plain,
)
from enginekeeper.validation.weight_statistics import PartStatistics, measure
from enginekeeper.validation.weight_suspects import Suspect


@dataclass(frozen=True)
class _Tried:
    """What was found of a linear, and counted, under one of several hypotheses."""

    counts: Counts
    findings: list[Finding]

    @property
    def exact(self) -> bool:
        """Whether all parts are the recipe's bit for bit, and nothing else was found."""
        return not self.findings and self.counts.exact == self.counts.parts

    @property
    def badness(self) -> tuple[int, int, float]:
        """How little it fits: findings that fail, findings, and the largest error."""
        failed = sum(finding.result == "fail" for finding in self.findings)
        return failed, len(self.findings), self.counts.worst_error


@dataclass(frozen=True)
class _Measured:
    """The parts of one linear beside their reproductions."""

    place: LinearPlace
    stored: AssembledLinear
    reproduction: Reproduction
    parts: tuple[PartStatistics, ...]

    @cached_property
    def judgements(self) -> tuple[Judgement | None, ...]:
        """Of each part, by the rules of its format; None of one that is not finite."""
        plain = self.reproduction.recipe.format is WeightFormat.PLAIN
        rule = judge_plain if plain else judge
        return tuple(None if one.not_finite else rule(one) for one in self.parts)

    @property
    def honest(self) -> bool:
        """Whether all parts are those of an honest export."""
        return all(one is not None and one.honest for one in self.judgements)

    @property
    def excess(self) -> float:
        """Squared error beyond an honest export's; none where it is reproduced bit for bit."""
        return float(sum(one.blocks.error.sum() - one.blocks.honest.sum() for one in self.parts))


@dataclass(frozen=True)
class WeightAudit:
    """One checkpoint beside one source model."""

    source: SourceModel
    checkpoint: Checkpoint
    geometry: Geometry
    counts: Counts = field(default_factory=Counts)
    processes: int | None = None
    """How many read layers; None for one for each core, where that is safe."""

    def run(self) -> AuditReport:
        """Reads every tensor once and returns what is wrong."""
        findings = list(rank_order.findings(self.source, self.checkpoint, self.geometry))
        findings.extend(census(self.checkpoint, self.geometry, self.source))
        findings.extend(unread(self.geometry, self.source))
        for counts, found in side_by_side(self._layer, list(self._layers()), self.processes):
            self.counts.take_in(counts)
            findings.extend(found)
        findings = copied_layers(findings)
        findings.extend(self._not_compared())
        findings.extend(
            weight_vectors.vector_findings(
                self.source, self.checkpoint, self.geometry, head_is_read=self.head_is_stored
            )
        )
        findings.extend(rank_copies.findings(self.checkpoint, self.geometry))
        findings.extend(activation_scales.shared_input(self.checkpoint, self.geometry))
        findings.extend(activation_range.findings(self.source, self.checkpoint, self.geometry))
        findings.extend(kv_cache.findings(self.checkpoint, self.geometry))
        findings.extend(kv_range.findings(self.source, self.checkpoint, self.geometry))
        counts = self.counts
        return AuditReport(
            "weights",
            tuple(findings),
            {
                "tensor_parts": counts.parts,
                "reproduced_bit_for_bit": counts.exact,
                "largest_gain_difference": counts.largest_gain,
                "largest_error_ratio": counts.largest_error,
                "lowest_share_of_equal_codes": counts.lowest_same_codes,
                "errors": counts.errors,
                "folded_norms": counts.folded_norms,
                "rounded_otherwise": counts.rounded_otherwise,
                "kv_cache": kv_cache.summary(self.checkpoint, self.geometry),
            },
        )

    def _not_compared(self) -> Iterator[Finding]:
        """Says once what no recipe is known for, rather than once per linear."""
        names = self.counts.not_compared
        if names:
            yield Finding(
                "weights.fidelity",
                "inconclusive",
                names[0],
                f"{len(names)} linears were not compared: what their quantization algorithm "
                "makes of a weight is not known here",
                self.checkpoint.quantization.algorithm,
                None,
                "T8",
            )

    @property
    def head_is_stored(self) -> bool:
        """Whether the head is a matrix of its own: a shared table is read as the table alone."""
        shared = self.checkpoint.config.share_embedding_table
        return not shared or bool(self.checkpoint.tensors(None, "lm_head.weight"))

    def places(self) -> Iterator[LinearPlace]:
        """Yields every matrix: the embedding, the layers' linears, the head if it is stored."""
        vocabulary = self.checkpoint.vocabulary(self.geometry)
        yield embedding_table(self.geometry, vocabulary, self.checkpoint.config)
        for layer in range(self.geometry.layers):
            yield from layer_linears(layer, self.geometry)
        if self.head_is_stored:
            yield head_linear(self.geometry, vocabulary)

    def _layers(self) -> Iterator[list[LinearPlace]]:
        """Yields the matrices of a layer together: they share norms. Table and head are alone."""
        for _, places in itertools.groupby(self.places(), lambda place: place.layer):
            yield list(places)

    def _layer(self, places: list[LinearPlace]) -> tuple[Counts, list[Finding]]:
        """Reads some matrices, counted on their own."""
        alone = replace(self, counts=Counts())
        return alone.counts, [finding for place in places for finding in alone.linear(place)]

    def recipe(self, place: LinearPlace) -> LinearRecipe:
        """Returns what the config says was done to a matrix; embeddings are never quantized."""
        if place.name == "transformer.vocab_embedding":
            return PLAIN
        return self.checkpoint.quantization.recipe(place.name)

    def linear(self, place: LinearPlace) -> Iterator[Finding]:
        """Yields what is wrong with one matrix."""
        try:
            recipe = self.recipe(place)
            stored = self.checkpoint.linear(place)
        except UnknownRecipeError:
            self.counts.not_compared.append(place.name)
            return
        except MisshapenLinearError as error:
            yield _misshapen(error)
            return
        problems = list(recipe_findings(stored, recipe))
        yield from problems
        if any(finding.result == "fail" for finding in problems):
            return
        with np.errstate(divide="ignore", invalid="ignore"):  # a scale may be zero, or tiny
            against = list(self._of_all_ranks(place, recipe, stored))
        yield from against
        if not any(finding.result == "fail" for finding in against):
            yield from beyond_fp8(stored)
            yield from beyond_half(stored, recipe, self.checkpoint.dtype)
        # What a wrong norm gives out says nothing of a scale.
        wrong_norm = place.norm is not None and place.norm[0] in self.counts.blamed_norms
        if not problems and not wrong_norm:
            yield from activation_scales.normed_input(self.checkpoint, place, stored)

    def _of_all_ranks(
        self, place: LinearPlace, recipe: LinearRecipe, stored: AssembledLinear
    ) -> Iterator[Finding]:
        """Judges a linear; where ranks have different scales, by the rank whose scales fit best.

        Each is judged by itself where all are the recipe's bit for bit, or where the scales of none
        fit the others and one is right by itself.
        """
        if stored.scales_agree:
            yield from self.against_source(place, recipe, stored)
            return
        slices = rank_slices.slices(self.source, place, stored)
        own = [self._alone(source, slot, recipe, one) for source, slot, one in slices]
        if all(one.exact for one in own):
            self.counts.take_in_ranks([one.counts for one in own])
            return
        tried = [
            self._alone(self.source, place, recipe, rank_slices.with_scales_of(stored, rank))
            for rank in range(len(stored.shards))
        ]
        best = min(range(len(tried)), key=lambda rank: tried[rank].badness)
        if tried[best].findings and not all(one.findings for one in own):
            self.counts.take_in_ranks([one.counts for one in own])
            yield from (finding for one in own for finding in one.findings)
            return
        self.counts.take_in(tried[best].counts)
        yield from tried[best].findings
        yield from rank_slices.other_scales(stored, best)

    def _alone(
        self,
        source: SourceModel,
        place: LinearPlace,
        recipe: LinearRecipe,
        stored: AssembledLinear,
    ) -> _Tried:
        """Judges a linear against a source, counted on its own."""
        alone = replace(self, source=source, counts=Counts())
        return _Tried(alone.counts, list(alone.against_source(place, recipe, stored)))

    def against_source(
        self, place: LinearPlace, recipe: LinearRecipe, stored: AssembledLinear
    ) -> Iterator[Finding]:
        """Judges the parts as they are, or, if they fit better so, with what the norm took over."""
        folding = weight_vectors.folding(self.source, self.checkpoint, place)
        dtype = self.checkpoint.dtype
        made_in = computed_in(self.source, place, recipe, stored, dtype, folded=folding)
        again = partial(
            reproduce, self.source, place, recipe, stored, dtype=made_in, stored_in=dtype
        )
        if folding is None and stored.prequant is not None:
            if recipe.format is WeightFormat.INT4_GROUP:
                yield from self._awq(place, stored, again)
                return
            if self._smoothquant(place, recipe, stored, made_in):
                yield from activation_scales.smoothed_input(stored, made_in, dtype)
                return
        measured = _compared(place, stored, again())
        if folding is not None and place.norm is not None:
            divided = None
            if np.isfinite(folding.ratio).all() and folding.ratio.all():
                divided = _compared(place, stored, again(folded=folding))
            if divided is not None and divided.honest and divided.excess < measured.excess:
                self.counts.folded_norms.append(place.name)
                yield from self._findings(divided)
                return
            if place.norm[0] not in self.counts.blamed_norms:
                self.counts.blamed_norms.append(place.norm[0])
                yield weight_vectors.norm_finding(f"{place.norm[0]}.weight", folding, dtype)
        yield from self._findings(measured)

    def _awq(
        self, place: LinearPlace, stored: AssembledLinear, again: Callable[..., Reproduction]
    ) -> Iterator[Finding]:
        """Judges an AWQ linear: if no short way sees that it is honest, the long way."""
        certificates = _certified(place, stored, again(as_stored=True), as_stored=True)
        if certificates is None:
            reproduction = again()
            certificates = _certified(place, stored, reproduction)
            if certificates is None:
                yield from self._findings(_compared(place, stored, reproduction))
                return
        for certificate in certificates:
            self.counts.add(certificate)

    def _smoothquant(
        self, place: LinearPlace, recipe: LinearRecipe, stored: AssembledLinear, made_in: str
    ) -> bool:
        """Counts a SmoothQuant linear if it is seen to be reproduced, and says whether it is."""
        if not recipe.prequant:
            return False
        stored_in = self.checkpoint.dtype
        found = exact_divisor(
            self.source, place, recipe, stored, dtype=made_in, stored_in=stored_in
        )
        if found is None:
            return False
        for part in place.parts:
            self.counts.add(Certificate(part, 1.0, 0.0, 1.0, exact=True))
        return True

    def _findings(self, measured: _Measured) -> Iterator[Finding]:
        place, recipe = measured.place, measured.reproduction.recipe
        judged = zip(place.parts, measured.parts, measured.judgements, strict=True)
        for index, (part, stats, judgement) in enumerate(judged):
            self.counts.add(stats)
            if judgement is None:
                yield _not_finite(place, part, stats)
                continue
            if judgement.other_rounding:
                self.counts.rounded_otherwise.append(part.module)
            if judgement.honest:
                continue
            suspect = Suspect(
                place,
                index,
                recipe.format,
                measured.stored,
                measured.reproduction,
                partial(self._relatives, place),
                tuple(one.gain for one in measured.parts),
            )
            diagnosis = diagnose(suspect, stats, judgement)
            known = diagnosis.explains and recipe.format is not WeightFormat.PLAIN
            yield Finding(
                check="weights.fidelity",
                result="inconclusive" if judgement.doubtful and not known else "fail",
                where=suspect.label,
                message=diagnosis.message,
                actual=diagnosis.actual,
                expected=diagnosis.expected,
                taxonomy=diagnosis.taxonomy,
            )
        if recipe.activation == "int8_static" and all(stats.exact for stats in measured.parts):
            made_in, dtype = measured.reproduction.dtype, self.checkpoint.dtype
            yield from activation_scales.smoothed_input(measured.stored, made_in, dtype)

    def _relatives(self, place: LinearPlace) -> Iterator[tuple[str, str, int]]:
        """Yields the linears whose weight could be here by mistake: as wide, in another place."""
        for layer in range(self.geometry.layers):
            for other in layer_linears(layer, self.geometry):
                for part in other.parts:
                    same = part in place.parts
                    if other.columns == place.columns and not same:
                        label = f" ({part.label})" if part.label else ""
                        yield other.name + label, part.module, part.rows


def _certified(
    place: LinearPlace,
    stored: AssembledLinear,
    reproduction: Reproduction,
    *,
    as_stored: bool = False,
) -> tuple[Certificate, ...] | None:
    """Returns the certificates of a linear all of whose parts get one, else None."""
    found = []
    for index, part in enumerate(place.parts):
        one = certify(stored, reproduction, index, place.columns, part, as_stored=as_stored)
        if one is None:
            return None
        found.append(one)
    return tuple(found)


def _compared(place: LinearPlace, stored: AssembledLinear, reproduction: Reproduction) -> _Measured:
    parts = tuple(
        measure(stored, reproduction, index, place.columns, part)
        for index, part in enumerate(place.parts)
    )
    return _Measured(place, stored, reproduction, parts)


def audit_weights(source: SourceModel, checkpoint: Checkpoint) -> AuditReport:
    """Compares every tensor of a checkpoint with the source and says what is wrong with which.

    Raises UnusableModelError for a source whose tensors do not fit its own config, or are those of
    a decoder that is not known here.
    """
    source.require_sizes()
    _require_known_tensors(source)
    return WeightAudit(source, checkpoint, Geometry.of(source.config)).run()


def _require_known_tensors(source: SourceModel) -> None:
    """Refuses another decoder by its name, not by the first of its tensors that is missing.

    Where all are there, the config audit says that the architecture is not known.
    """
    geometry, name = Geometry.of(source.config), source.config.architecture
    places = [place for layer in range(geometry.layers) for place in layer_linears(layer, geometry)]
    names = {f"{part.module}.weight" for place in places for part in place.parts}
    names.update(f"{place.norm[1]}.weight" for place in places if place.norm is not None)
    missing = sorted(one for one in names if one not in source)
    if missing and name not in ARCHITECTURES:
        raise UnusableModelError(
            "the audits do not know this architecture's tensors",
            where=f"{source.directory / 'config.json'}: architectures",
            actual=f"{name}, without {missing[0]}",
            expected=", ".join(ARCHITECTURES),
            remedy="serve this model with vLLM meanwhile",
        )


def _not_finite(place: LinearPlace, part: Part, stats: PartStatistics) -> Finding:
    return Finding(
        check="weights.finite",
        result="fail",
        where=f"{place.name}.weight" + (f" ({part.label})" if part.label else ""),
        message=f"{stats.not_finite} of {part.rows * place.columns} weights are NaN or infinite",
        actual=stats.not_finite,
        expected=0,
        taxonomy="T20",
    )


def _misshapen(error: MisshapenLinearError) -> Finding:
    missing = "missing" in error.what
    return Finding(
        check="weights.layout",
        result="fail",
        where=error.where or "",
        message=error.what,
        actual=error.actual,
        expected=error.expected,
        taxonomy="T2" if missing else "T3",
    )
