"""What was said of engines: known at once, and its signature checked when a decision goes by it.

Of an engine's verdicts a decision about a place goes by one; to check the others would take longer
than everything else of a plan. What is to be checked is read together: all of it, or that under
the drivers which are known to be asked about, and what is asked besides driver by driver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from enginekeeper.compatibility.decision import Judgement
from registry.digests import Digest
from registry.environments import Environment, GpuEnvironment, environment_from_dict
from registry.queries import View
from registry.service import Registry
from registry.trust import Trust
from registry.types import Engine, Result, Verdict
from registry.verification import verdict_signature

_GONE = "the verdict is not recorded any more"


class Attestation(Judgement):
    """A judgement whose signature is checked when it is asked for its fault."""

    def __init__(
        self,
        environment: Environment,
        result: Result,
        check: Callable[[], str | None],
        issued_at: datetime | None = None,
    ) -> None:
        object.__setattr__(self, "environment", environment)
        object.__setattr__(self, "result", result)
        object.__setattr__(self, "issued_at", issued_at)
        object.__setattr__(self, "_check", check)

    @property
    def fault(self) -> str | None:
        """Why its signature does not count; None for one that does."""
        check: Callable[[], str | None] = vars(self)["_check"]
        return check()


@dataclass(frozen=True)
class _Said:
    """A verdict, as far as it is read at once."""

    row: int
    engine: Digest
    driver: str | None


@dataclass(frozen=True)
class Attested:
    """The verdicts on engines, as a trust sees them."""

    registry: Registry
    trust: Trust
    engines: Mapping[Digest, Engine]
    drivers: Collection[str] | None = None
    """Whose verdicts are read at the first question; None: all."""
    _by_driver: dict[str | None, list[int]] = field(default_factory=dict)
    _read: dict[int, Verdict] = field(default_factory=dict)
    _faults: dict[int, str | None] = field(default_factory=dict)

    def judgements(self, view: View) -> dict[Digest, tuple[Judgement, ...]]:
        """Returns what was said of each engine, newest first; nothing is checked yet."""
        rows = view.fleet.engine_rows(map(str, self.engines))
        said = list(view.fleet.verdicts_recorded(rows))
        environments = known_environments(view, {where for *_, where, _ in said})
        issued = view.fleet.issued_where_overtaken(rows)
        found: dict[Digest, list[Judgement]] = {digest: [] for digest in self.engines}
        for row, engine, where, result in said:
            environment = environments[where]
            driver = environment.driver if isinstance(environment, GpuEnvironment) else None
            self._by_driver.setdefault(driver, []).append(row)
            one = _Said(row, rows[engine], driver)
            found[one.engine].append(
                Attestation(environment, Result(result), partial(self._fault, one), issued.get(row))
            )
        return {digest: tuple(some) for digest, some in found.items()}

    def _fault(self, said: _Said) -> str | None:
        if said.row not in self._faults:
            self._faults[said.row] = self._checked(said)
        return self._faults[said.row]

    def _checked(self, said: _Said) -> str | None:
        if said.driver in self._by_driver:
            self._read_with(said.driver)
        verdict = self._read.get(said.row)
        if verdict is None:
            return _GONE
        signature = verdict_signature(self.engines[said.engine], verdict, self.trust)
        return None if signature.fault is None else one_line(signature.fault)

    def _read_with(self, driver: str | None) -> None:
        """Reads the verdicts under a driver, and the first time those under the others too."""
        together = {driver}
        if not self._read:
            together |= set(self._by_driver if self.drivers is None else self.drivers)
        rows = [row for one in together for row in self._by_driver.pop(one, ())]
        with self.registry.catalogue.read() as view:
            self._read.update(view.verdicts_of_rows(rows))


def known_environments(view: View, rows: Collection[int]) -> dict[int, Environment]:
    """Returns environments by row."""
    documents = view.fleet.environments(rows)
    return {row: environment_from_dict(document) for row, document in documents.items()}


def one_line(text: str) -> str:
    """Returns a text of several lines as one."""
    return "; ".join(line.strip() for line in text.splitlines())
