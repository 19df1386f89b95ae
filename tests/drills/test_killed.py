"""Publishing, judging and deploying, killed at every moment at which something changes."""

from __future__ import annotations

import signal

from registry.publishing import EnginePublication
from tests.drills.ground import Ground
from tests.drills.ledger import Ledger
from tests.drills.moments import Moments, in_a_process, kill

_FEWEST, _MOST = 30, 200


def live_and_die(ground: Ground, publication: EnginePublication, at: int) -> bool:
    """Lets a process live an engine's life and die at a moment; says whether it died."""

    def work() -> None:
        registry = ground.opened()
        Moments(at, kill).listen(registry, ground.store_url.removeprefix("file://"))
        ground.live(publication, registry)

    # Its verdict is a good one: if it was recorded before the process died, it counts.
    ground.passed.add(publication.manifest.digest)
    status = in_a_process(work)
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def test_who_is_killed_anywhere_leaves_nothing_half_and_may_come_again(
    ground: Ground, ledger: Ledger
) -> None:
    drill = ledger.drill(
        "publisher, validator, operator killed",
        "SIGKILL at every file operation, S3 request, statement and commit of publish, verdict "
        "and channel move, a process for each; looked at, then done again and looked at again",
    )
    ground.live(ground.publication())
    for at in range(1, _MOST):
        publication = ground.publication()
        died = live_and_die(ground, publication, at)
        digest = publication.manifest.digest
        drill.ran(ground.look(digest), f"moment {at}")
        ground.live(publication)
        drill.ran(ground.look(digest), f"again after moment {at}")
        if not died:
            break
    assert _FEWEST < at < _MOST - 1
    drill.ran(ground.look(), "at the end")
