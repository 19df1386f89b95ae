"""One step of a wave as a flow takes it: look, decide, record, ask for work, tell."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.outcome import Ending, Outcome
from enginekeeper.orchestration.rollout import service
from enginekeeper.orchestration.rollout.dispatching import dispatch_to
from enginekeeper.orchestration.rollout.telling import tell
from registry.waves.types import Phase

progress = logging.getLogger("enginekeeper.progress")


@dataclass(frozen=True)
class Resting:
    """Where a wave is after a step."""

    wave: str
    said: str
    rests: bool
    """Whether it has ended or stopped, so that no further step follows by itself."""

    def outcome(self) -> Outcome:
        """Returns it as what a flow leaves on the server; a stopped wave is told by its phase."""
        return Outcome(
            variant=f"wave {self.wave}", ending=Ending.JUDGED, result=None, summary=self.said
        )


def step(bench: Bench, name: str) -> Resting:
    """Lets a wave go on by one step."""
    before = service.read_wave(bench.registry, name)
    now = datetime.now(UTC)
    done = service.go_on(bench.registry, name, now=now, dispatch=dispatch_to(before))
    after = done.after
    counts = ", ".join(f"{count} {stage}" for stage, count in after.stage_counts().items())
    said = f"wave {name}: {after.phase}; {counts}"
    if after.version != before.version:
        progress.info("%s", said)
    if (fault := tell(bench.registry, bench.settings, after, now=now)) is not None:
        progress.info("warning: %s", fault.splitlines()[0])
    if done.fault is not None:
        raise done.fault
    rests = after.ended or after.phase is Phase.STOPPED
    return Resting(name, said, rests)
