"""What a sweep would take and what it must leave: every reason to keep, and no other."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from registry.digests import Digest
from registry.fleet.types import PlacedEngine
from registry.lifecycle import quarantine, revoke
from registry.publishing import CheckpointPublication
from registry.retention import RetentionPolicy, mark
from registry.types import Checkpoint, Engine, Placement, Repair, Result
from tests.factories.fleet import NOON, enrolled, minutes, report
from tests.factories.registry import CPU, H100, START, WEIGHTS, Workbench

OLD = START + timedelta(days=30)
POLICY = RetentionPolicy(rollbacks=2)


def reasons(
    bench: Workbench, policy: RetentionPolicy = POLICY, keep: tuple[Digest, ...] = ()
) -> dict[Digest, tuple[str, ...]]:
    with bench.registry.catalogue.read() as view:
        return {one.holding.digest: one.reasons for one in mark(view, policy, OLD, keep)}


def published(bench: Workbench, count: int) -> list[Engine]:
    return [bench.publish(content=bytes([number])) for number in range(count)]


def test_of_one_key_the_newest_stays(bench: Workbench) -> None:
    first, second = published(bench, 2)
    other_key = bench.publish(calibration="sha256:1")
    assert reasons(bench) == {
        first.digest: (), second.digest: ("newest",), other_key.digest: ("newest",),
    }  # fmt: skip
    assert reasons(bench, replace(POLICY, per_key=0))[second.digest] == ()
    assert reasons(bench, replace(POLICY, per_key=2))[first.digest] == ("newest",)


def test_the_newest_qualified_one_of_each_environment_stays(bench: Workbench) -> None:
    on_h100, on_cpu, also_on_cpu, failed = published(bench, 4)
    bench.judge(on_h100, environment=H100)
    bench.judge(on_cpu)
    bench.judge(also_on_cpu)
    bench.judge(failed, Result.FAIL)
    found = reasons(bench)
    assert found[on_h100.digest] == found[also_on_cpu.digest] == ("qualified",)
    assert found[on_cpu.digest] == ()
    bench.judge(also_on_cpu, Result.FAIL)
    assert reasons(bench)[on_cpu.digest] == ("qualified",)


def test_channels_and_as_many_rollbacks_as_promised_stay(bench: Workbench) -> None:
    engines = published(bench, 5)
    for engine in engines:
        bench.judge(engine)
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
        bench.judge(engine, Result.FAIL)
    bench.publish(content=b"newer")
    found = [reasons(bench)[engine.digest] for engine in engines]
    assert found == [(), (), ("rollback",), ("rollback",), ("channel",)]


def test_rollbacks_are_not_counted_over_what_was_revoked(bench: Workbench) -> None:
    engines = published(bench, 4)
    for engine in engines:
        bench.judge(engine)
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    revoke(bench.registry, engines[2], "wrong", bench.signers.revoker)
    found = reasons(bench)
    assert found[engines[2].digest] == ()
    assert "rollback" in found[engines[0].digest]
    assert "rollback" in found[engines[1].digest]


def test_what_lies_on_a_node_or_was_named_stays(bench: Workbench) -> None:
    placed, named, gone, _ = published(bench, 4)
    with bench.registry.catalogue.edit() as draft:
        draft.add_placement(Placement("node", "/models/x", placed.digest, START))
    found = reasons(bench, keep=(named.digest,))
    assert found[placed.digest] == ("placement",)
    assert found[named.digest] == ("keep",)
    assert found[gone.digest] == ()


def test_what_an_agent_says_of_its_node_stays(bench: Workbench) -> None:
    running, gone, _ = published(bench, 3)
    catalogue = bench.registry.catalogue
    node = enrolled(catalogue)
    with catalogue.edit(actor="agent") as draft:
        places = [
            PlacedEngine(str(one.digest), "/engines/m", "verified") for one in (running, gone)
        ]
        draft.fleet.take([report(node, 1, places)], NOON)
    assert [reasons(bench)[one.digest] for one in (running, gone)] == [("placement",)] * 2
    with catalogue.edit(actor="agent") as draft:
        draft.fleet.take([report(node, 2, places[:1])], minutes(1))
    assert [reasons(bench)[one.digest] for one in (running, gone)] == [("placement",), ()]
    with catalogue.edit(actor="anna") as draft:
        draft.fleet.retire(node.name, minutes(2))
    assert reasons(bench)[running.digest] == ()


def test_what_is_quarantined_stays_to_be_looked_into_and_what_is_revoked_goes(
    bench: Workbench,
) -> None:
    held, fine, revoked = published(bench, 3)
    quarantine(bench.registry, held, "odd")
    revoke(bench.registry, revoked, "wrong", bench.signers.revoker)
    found = reasons(bench)
    assert found[held.digest] == ("quarantined",)
    assert found[fine.digest] == ("newest",)
    assert found[revoked.digest] == ()


@pytest.mark.parametrize(("days", "stays"), [(29, False), (31, True)])
def test_what_is_young_stays(bench: Workbench, days: int, *, stays: bool) -> None:
    first, _ = published(bench, 2)
    found = reasons(bench, replace(POLICY, grace=timedelta(days=days)))
    assert ("young" in found[first.digest]) is stays


def checkpoint(bench: Workbench, name: str, *repairs: str) -> Checkpoint:
    directory = bench.publication(content=name.encode()).directory
    made = tuple(Repair(one, "config.json", None, 1, "test") for one in repairs)
    return bench.registry.publish_checkpoint(
        CheckpointPublication(directory, WEIGHTS, "w8a16", repairs=made)
    )


def test_a_checkpoint_stays_with_its_engines_or_as_the_newest_of_its_kind(
    bench: Workbench,
) -> None:
    used, unused, repaired, newest = (
        checkpoint(bench, "1"), checkpoint(bench, "2"), checkpoint(bench, "3", "rope"),
        checkpoint(bench, "4"),
    )  # fmt: skip
    bench.registry.publish_engine(replace(bench.publication(content=b"e"), checkpoint=used.digest))
    found = reasons(bench)
    assert found[used.digest] == ("engine",)
    assert found[unused.digest] == ()
    assert found[repaired.digest] == found[newest.digest] == ("newest",)


def test_a_checkpoint_goes_with_the_last_engine_that_needs_it(bench: Workbench) -> None:
    old, new = checkpoint(bench, "1"), checkpoint(bench, "2")
    for content, made_from in ((b"a", old), (b"b", new)):
        bench.registry.publish_engine(
            replace(bench.publication(content=content), checkpoint=made_from.digest)
        )
    found = reasons(bench)
    assert found[old.digest] == ()
    assert found[new.digest] == ("engine", "newest")
