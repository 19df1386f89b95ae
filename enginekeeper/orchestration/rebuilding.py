"""What a change asks to be judged again or built, and the builds that do it.

Rules:

- a change names engines or variants; what becomes of each is the plan's decision, so that what
  is proven already is reused, and a run that was interrupted goes on where it was;
- an engine that only has to be judged is judged as it is, whatever its variant would be today;
- a variant is built once, however many engines ask for it;
- what needs a GPU that is not here is told with the command that does it there;
- nothing is built without a spec that says how.

Example:
    plan = plan_rebuild(bench, RebuildRequest((Path("buildspecs"),), weights=("smollm2-135m",)))
    outcomes = carry_out(plan)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.compatibility.placing import Effect
from enginekeeper.errors import InputError
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.order import BuildOrder, RebuildOrder
from enginekeeper.orchestration.outcome import Ending, Failure, Outcome
from enginekeeper.orchestration.plan import Action, PlannedVariant
from enginekeeper.orchestration.planning import plan_order, planned_outcome
from enginekeeper.orchestration.start import run_rebuild
from enginekeeper.orchestration.waves import WavePlan
from enginekeeper.specs.loader import load_variants
from enginekeeper.specs.variants import Variant
from registry.digests import Digest
from registry.errors import DiagnosedError

_NO_SPEC = "no-spec"
_SETTLED = {Effect.REUSE: Action.REUSE, Effect.REFUSE: Action.REFUSE}


@dataclass(frozen=True)
class RebuildRequest:
    """A change, by what it touches; several are one request."""

    specs: tuple[Path, ...]
    """Build specs, or directories of them."""
    engines: tuple[str, ...] = ()
    """Ids of engines, or unambiguous starts of them."""
    toolchains: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    """Names of models."""
    wave: WavePlan | None = None
    """What a driver asks for."""
    channel: str | None = None


@dataclass(frozen=True)
class Wanted:
    """One thing to be done, before anybody has looked whether it is done already."""

    variant: str
    engine: str | None
    """The engine to judge as it is; None: whatever the variant is today."""
    why: str
    target: str
    settled: Action | None = None
    """What the change itself decided: nothing is to be done, or nothing helps."""

    @property
    def same(self) -> tuple[str, str | None, str]:
        """What makes two of them one: a variant is built once, an engine judged on each target."""
        return self.variant, self.engine, "" if self.engine is None else self.target


@dataclass(frozen=True)
class RebuildItem:
    """What becomes of one engine or variant, and why it was looked at."""

    wanted: Wanted
    spec: str | None
    planned: PlannedVariant | None
    """None where the change itself decided, or no spec names the variant."""

    @property
    def action(self) -> Action:
        """What is done about it here."""
        if self.planned is not None:
            return self.planned.action
        return self.wanted.settled or Action.REFUSE

    @property
    def rule(self) -> str:
        """What decided."""
        if self.planned is not None:
            return self.planned.rule
        return _NO_SPEC if self.wanted.settled is None else "driver-change"

    @property
    def reason(self) -> str:
        """Says it for a person."""
        if self.planned is not None:
            return self.planned.reason
        if self.wanted.settled is not None:
            return self.wanted.why
        return "no spec names this variant: --spec FILE"

    @property
    def there(self) -> str | None:
        """The command that does it where the GPU is; None where that is not the question."""
        if self.action is not Action.ELSEWHERE:
            return None
        spec = f"--spec {self.spec}"
        if self.wanted.engine is not None:
            return f"enginekeeper rebuild --engine {self.wanted.engine} {spec}"
        return f"enginekeeper build {self.spec} --only {self.wanted.variant}"

    def as_dict(self) -> dict[str, Any]:
        """Returns the item as JSON values."""
        known = None if self.planned is None else self.planned.known
        reused = None if known is None else str(known.engine.digest)
        return {
            "variant": self.wanted.variant,
            "target": self.wanted.target,
            "action": str(self.action),
            "rule": self.rule,
            "reason": self.reason,
            "why": self.wanted.why,
            "engine": self.wanted.engine or reused,
            "spec": self.spec,
            "there": self.there,
        }


@dataclass(frozen=True)
class RebuildPlan:
    """Everything a change asks for, and the order that does what can be done here."""

    items: tuple[RebuildItem, ...]
    order: RebuildOrder

    def left_out(self) -> list[Outcome]:
        """Returns the outcomes of what no build here is asked for."""
        return [_outcome(one) for one in self.items if _is_left_out(one)]


def plan_rebuild(bench: Bench, request: RebuildRequest) -> RebuildPlan:
    """Plans a change; raises InputError where two specs name a variant that is wanted."""
    specs = _Specs(request.specs)
    wanted = list({one.same: one for one in _wanted(bench, request, specs)}.values())
    items = [RebuildItem(one, None, None) for one in wanted if specs.of(one) is None]
    builds: list[BuildOrder] = []
    for path, portion in _portions([one for one in wanted if specs.of(one) is not None], specs):
        order = _order(path, portion, request.channel)
        planned = {str(one.variant.identifier): one for one in plan_order(bench, order)}
        found = [RebuildItem(one, path, planned[one.variant]) for one in portion]
        items += found
        if here := [one.wanted for one in found if not _is_left_out(one)]:
            builds.append(_order(path, here, request.channel))
    return RebuildPlan(tuple(items), RebuildOrder(tuple(builds)))


def carry_out(plan: RebuildPlan, *, deployment: str | None = None) -> list[Outcome]:
    """Does what can be done here, and says what cannot; what exists is reused."""
    done = run_rebuild(plan.order, deployment=deployment) if plan.order.builds else []
    return [*done, *plan.left_out()]


def attempted(build: Callable[[BuildOrder], list[Outcome]], order: BuildOrder) -> list[Outcome]:
    """Carries out one build of several; what ends it is the outcome of each of its variants."""
    try:
        return build(order)
    except DiagnosedError as error:
        said, failure = str(error), Failure.of(error)
        return [
            Outcome(name, Ending.FAILED, result=None, summary=said, failure=failure)
            for name in order.only
        ]


def spec_of(specs: Sequence[str], variant: str) -> str | None:
    """Returns the path of the spec that names a variant; raises InputError where two do."""
    return _Specs(tuple(map(Path, specs))).of(Wanted(variant, None, "", ""))


class _Specs:
    """The variants of some specs, by name."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._found: dict[str, list[tuple[str, Variant]]] = {}
        for path in _files(places):
            for variant in load_variants(path):
                self._found.setdefault(str(variant.identifier), []).append((str(path), variant))

    def variants(self) -> Iterator[Variant]:
        """Yields each variant once."""
        yield from (found[0][1] for found in self._found.values())

    def of(self, wanted: Wanted) -> str | None:
        """Returns the path of the spec that says how; None if there is none, or need not be."""
        found = self._found.get(wanted.variant, [])
        if wanted.settled is not None:
            return None
        if len(found) > 1:
            raise InputError(
                "several specs name this variant",
                where=wanted.variant,
                actual=", ".join(path for path, _ in found),
                expected="one",
                remedy="name the one that counts: --spec FILE",
            )
        return found[0][0] if found else None


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        yield from sorted(place.glob("*.yaml")) if place.is_dir() else [place]


def _wanted(bench: Bench, request: RebuildRequest, specs: _Specs) -> Iterator[Wanted]:
    if request.wave is not None:
        yield from _of_wave(request.wave)
    for reference in request.engines:
        known = bench.registry.engine(reference)
        yield Wanted(known.variant, str(known.digest), "named", known.target)
    with bench.registry.catalogue.read() as view:
        built = view.variants()  # what was never built is no rebuild
    for variant in specs.variants():
        name, target = str(variant.identifier), variant.target.gpu
        if name in built and variant.toolchain in request.toolchains:
            yield Wanted(name, None, f"toolchain {variant.toolchain}", target)
        elif name in built and variant.model.name in request.weights:
            yield Wanted(name, None, f"weights of {variant.model.name}", target)


def _of_wave(plan: WavePlan) -> Iterator[Wanted]:
    for group in plan.groups:
        rules = ", ".join(one.rule.identifier for one in group.decision.deciding)
        engine, builds = group.engine, group.action is Effect.REBUILD
        yield Wanted(
            engine.variant,
            None if builds else engine.digest,
            f"{group.action} under driver {plan.change.driver.version}: {rules}",
            group.kind.product,
            settled=_SETTLED.get(group.action),
        )


def _portions(wanted: Sequence[Wanted], specs: _Specs) -> Iterator[tuple[str, list[Wanted]]]:
    """Yields what one build can do at once: of one spec, and each variant once."""
    portions: list[tuple[str, list[Wanted]]] = []
    for one in wanted:
        path = str(specs.of(one))
        for there, portion in portions:
            if there == path and all(other.variant != one.variant for other in portion):
                portion.append(one)
                break
        else:
            portions.append((path, [one]))
    yield from portions


def _order(path: str, portion: Sequence[Wanted], channel: str | None) -> BuildOrder:
    return BuildOrder(
        path,
        only=tuple(one.variant for one in portion),
        channel=channel,
        engines=tuple(one.engine for one in portion if one.engine is not None),
    )


def _is_left_out(item: RebuildItem) -> bool:
    return item.planned is None or item.action in (Action.ELSEWHERE, Action.REFUSE)


_ENDINGS = {Action.ELSEWHERE: Ending.ELSEWHERE, Action.REUSE: Ending.REUSED}


def _outcome(item: RebuildItem) -> Outcome:
    if item.planned is not None and item.action is Action.REFUSE:
        return planned_outcome(item.planned)
    ending = _ENDINGS.get(item.action, Ending.REFUSED)
    there = "" if item.there is None else f"; there: {item.there}"
    engine = item.wanted.engine
    return Outcome(
        variant=item.wanted.variant, ending=ending, result=None,
        summary=f"{item.reason}{there}",
        engine=None if engine is None else str(Digest.parse(engine)),
    )  # fmt: skip
