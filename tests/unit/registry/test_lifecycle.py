"""Quarantine, release, revocation; what a rollback leads to; whom a withdrawal touches."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from registry import layout
from registry.attestations import sign
from registry.catalogue import connect, parse_url
from registry.channels import find_place, way_back
from registry.digests import digest_bytes
from registry.errors import (
    ConflictError,
    GateClosedError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
)
from registry.fleet.types import PlacedEngine
from registry.lifecycle import blast_radius, quarantine, release, revoke
from registry.lineage import lineage
from registry.publishing import CheckpointPublication
from registry.revocations import Revocation, revocation
from registry.scrubbing import scrub
from registry.standing import Standing, StandingChange, held_by, held_since
from registry.statements import statements_of
from registry.trust import Purpose, Trust
from registry.types import ChannelMove, Engine, Place, Placement, Result
from tests.factories.fleet import NOON, engine_name, enrolled, report
from tests.factories.registry import CPU, H100, START, WEIGHTS, Workbench, with_registry

PLACE = Place("prod", "smollm2-135m", "cpu")


def rule(bench: Workbench, engine: Engine) -> tuple[str, str]:
    decision = bench.registry.gate(engine.digest, CPU)
    return decision.rule, str(decision.family)


def put(bench: Workbench, content: bytes) -> Engine:
    engine = bench.publish(content=content)
    bench.judge(engine)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    return engine


def forget_standings(bench: Workbench) -> None:
    """Does what restoring an old backup of the catalogue does."""
    engine = connect(parse_url(bench.registry.catalogue.url))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM standings"))
    engine.dispose()


def test_a_quarantine_closes_the_gate_until_it_is_released(bench: Workbench) -> None:
    engine = put(bench, b"1")
    quarantine(bench.registry, engine, "odd answers on long prompts")
    decision = bench.registry.gate(engine.digest, CPU)
    assert (decision.rule, decision.family) == ("quarantined", "closed")
    assert "odd answers on long prompts" in decision.evidence[0]
    release(bench.registry, engine, "was the client")
    assert rule(bench, engine) == ("qualified", "ok")


def test_a_revocation_is_final(bench: Workbench) -> None:
    engine = put(bench, b"1")
    revoked = revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    assert rule(bench, engine) == ("revoked", "closed")
    with pytest.raises(ConflictError, match="nothing follows"):
        release(bench.registry, engine, "please")
    with pytest.raises(ConflictError, match="nothing follows"):
        quarantine(bench.registry, engine, "again")
    assert revoke(bench.registry, engine, "again", bench.signers.revoker) == revoked
    bench.judge(engine)
    assert rule(bench, engine) == ("revoked", "closed")


def test_only_a_revoker_revokes(bench: Workbench) -> None:
    engine = put(bench, b"1")
    for signer in (bench.signers.builder, bench.signers.simulated_revoker):
        with pytest.raises(IntegrityError, match="signature does not count"):
            revoke(bench.registry, engine, "mine", signer)
    assert rule(bench, engine) == ("qualified", "ok")
    assert statements_of(bench.registry.store, engine).names(Purpose.REVOCATION) == []


def test_a_revocation_whose_signer_is_not_trusted_any_more_keeps_the_gate_closed(
    bench: Workbench,
) -> None:
    engine = put(bench, b"1")
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    keys = [key for key in bench.registry.trust.keys if "revocation" not in key.purposes]
    distrusting = with_registry(bench, trust=Trust(tuple(keys)))
    assert rule(distrusting, engine) == ("revocation-not-attested", "integrity")


def test_the_statement_beside_the_engine_counts_though_the_catalogue_lost_its_row(
    bench: Workbench,
) -> None:
    first, second = put(bench, b"1"), put(bench, b"2")
    revoke(bench.registry, first, "wrong tokens", bench.signers.revoker)
    forget_standings(bench)
    with pytest.raises(GateClosedError, match="revoked"):
        bench.registry.set_channel("prod", first.digest, CPU, actor="anna")
    assert rule(bench, first) == ("revoked", "closed")
    assert bench.registry.channels()[0].engine == second.digest


def test_what_claims_to_be_a_revocation_beside_the_engine_holds_it_too(bench: Workbench) -> None:
    engine = put(bench, b"1")
    forged = sign(revocation(engine, Revocation("sabotage", "eve", START)), bench.signers.validator)
    bench.registry.store.put_document(f"{engine.path}/attestations/revocation-x.dsse.json", forged)
    with pytest.raises(IntegrityError, match="nobody trusted signed"):
        bench.registry.set_channel("canary", engine.digest, CPU, actor="anna")


@pytest.mark.parametrize("data", [b"", b"{}", b"forged"], ids=["empty", "no envelope", "forged"])
@pytest.mark.parametrize("look", ["a scrub", "a channel", "a publish"])
def test_junk_that_is_called_a_revocation_holds_the_engine_only_while_it_lies_there(
    bench: Workbench, data: bytes, look: str
) -> None:
    engine, store = put(bench, b"1"), bench.registry.store
    name = layout.statement_name(engine.digest, Purpose.REVOCATION, engine.digest)
    said = revocation(engine, Revocation("sabotage", "eve", START))
    store.put_document(name, sign(said, bench.signers.validator) if data == b"forged" else data)
    if look == "a scrub":
        scrub(bench.registry)
    elif look == "a publish":
        bench.publish(content=b"1")
    else:
        with pytest.raises(IntegrityError, match="nobody trusted signed"):
            bench.registry.set_channel("canary", engine.digest, CPU, actor="anna")
    assert rule(bench, engine) == ("quarantined", "closed")
    assert bench.registry.state().revoked_engines == frozenset()
    with pytest.raises(ConflictError, match=r"(?s)lies in the store.*revocation-"):
        release(bench.registry, engine, "it is junk")
    store.remove_document(name)
    release(bench.registry, engine, "it was junk")
    bench.registry.set_channel("canary", engine.digest, CPU, actor="anna")


def test_publishing_revoked_bytes_again_does_not_clear_them(bench: Workbench) -> None:
    engine = put(bench, b"1")
    revoke(bench.registry, engine, "wrong tokens", bench.signers.revoker)
    forget_standings(bench)
    assert bench.publish(content=b"1") == engine
    assert rule(bench, engine) == ("revoked", "closed")


def test_a_reason_is_asked_for(bench: Workbench) -> None:
    engine = bench.publish()
    for reason in ("", "  ", "x" * 1001):
        with pytest.raises(InvalidRecordError, match="say why"):
            quarantine(bench.registry, engine, reason)


@given(st.lists(st.sampled_from(list(Standing)), max_size=6))
def test_a_revocation_counts_wherever_it_stands(kinds: list[Standing]) -> None:
    changes = [StandingChange(digest_bytes(b""), kind, "r", "a", START) for kind in kinds]
    held = held_by(changes)
    if Standing.REVOKED in kinds:
        assert held is not None
        assert held.kind is Standing.REVOKED
    else:
        quarantined = kinds[:1] == [Standing.QUARANTINED]
        assert (held is not None) is quarantined


Q, R, GONE = Standing.QUARANTINED, Standing.RELEASED, Standing.REVOKED


@pytest.mark.parametrize(
    ("newest_first", "since"),
    [
        ([], None), ([Q], 0), ([R], None), ([R, Q], None), ([Q, Q], 1), ([Q, R, Q], 0),
        ([GONE], 0), ([GONE, Q], 1), ([GONE, R, Q], 0), ([GONE, Q, R, Q], 1), ([R, GONE], 1),
        ([R, GONE, Q], 2),
    ],
)  # fmt: skip
def test_an_engine_is_held_since_nothing_let_it_go(
    newest_first: list[Standing], since: int | None
) -> None:
    changes = [
        StandingChange(digest_bytes(b""), kind, "r", "a", START - timedelta(hours=age))
        for age, kind in enumerate(newest_first)
    ]
    assert held_since(changes) == (None if since is None else changes[since].changed_at)


def test_a_rollback_goes_back_one_and_then_one_more(bench: Workbench) -> None:
    first, second, third = (put(bench, content) for content in (b"1", b"2", b"3"))
    bench.registry.roll_back(PLACE, actor="anna")
    assert bench.registry.channels()[0].engine == second.digest
    bench.registry.roll_back(PLACE, actor="anna")
    assert bench.registry.channels()[0].engine == first.digest
    with pytest.raises(RecordNotFoundError, match="nothing to go back to"):
        bench.registry.roll_back(PLACE, actor="anna")
    moves = bench.registry.channel_history("prod", "smollm2-135m")
    assert [move.rollback for move in moves] == [True, True, False, False, False]
    assert moves[0].previous == second.digest
    assert moves[1].previous == third.digest


def test_a_rollback_passes_the_gate_again(bench: Workbench) -> None:
    first, second, third = (put(bench, content) for content in (b"1", b"2", b"3"))
    quarantine(bench.registry, second, "odd")
    with pytest.raises(GateClosedError, match="quarantined"):
        bench.registry.roll_back(PLACE, actor="anna")
    bench.judge(first, Result.FAIL)
    with pytest.raises(GateClosedError, match="failed"):
        bench.registry.roll_back(PLACE, actor="anna", to=first.digest)
    assert [one.rule for one in bench.registry.rollback_choices(PLACE)] == [
        "quarantined", "verdict-failed",
    ]  # fmt: skip
    assert bench.registry.channels()[0].engine == third.digest


def test_a_rollback_refuses_what_was_revoked_and_takes_another_by_name(bench: Workbench) -> None:
    first, second, _ = (put(bench, content) for content in (b"1", b"2", b"3"))
    revoke(bench.registry, second, "wrong tokens", bench.signers.revoker)
    with pytest.raises(GateClosedError, match="revoked") as caught:
        bench.registry.roll_back(PLACE, actor="anna")
    assert f"--to {first.digest.short}" in str(caught.value.remedy)
    bench.registry.roll_back(PLACE, actor="anna", to=first.digest.short)
    assert bench.registry.channels()[0].engine == first.digest


def test_a_rollback_leads_to_no_engine_that_was_never_there(bench: Workbench) -> None:
    put(bench, b"1")
    stranger = bench.publish(content=b"2")
    with pytest.raises(RecordNotFoundError, match="never in the channel"):
        bench.registry.roll_back(PLACE, actor="anna", to=stranger.digest)


def test_a_rollback_is_for_the_environment_of_the_latest_move(bench: Workbench) -> None:
    first = put(bench, b"1")
    second = bench.publish(content=b"2")
    bench.judge(second, environment=H100)
    bench.registry.set_channel("prod", second.digest, H100, actor="anna")
    with pytest.raises(GateClosedError, match="never judged on"):
        bench.registry.roll_back(PLACE, actor="anna")
    bench.registry.roll_back(PLACE, actor="anna", environment=CPU)
    assert bench.registry.channels()[0].engine == first.digest


def test_a_channel_of_several_models_must_be_named_further(bench: Workbench) -> None:
    put(bench, b"1")
    engine = bench.registry.publish_engine(bench.publication(content=b"2"))
    with bench.registry.catalogue.read() as view:
        assert find_place(view, "prod") == PLACE
        with pytest.raises(RecordNotFoundError):
            find_place(view, "prod", model="other")
    move = ChannelMove("prod", "smollm2-135m", "h100-sxm", engine.digest, None, CPU, "anna", START)
    with bench.registry.catalogue.edit() as draft:
        draft.move_channel(move, simulated=False)
        with pytest.raises(InvalidRecordError, match="several models or targets"):
            find_place(draft, "prod")
        assert find_place(draft, "prod", target="cpu") == PLACE


Step = tuple[int, bool]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_the_way_back_ends_and_never_leads_where_the_channel_is(steps: list[Step]) -> None:
    engines = [digest_bytes(bytes([number])) for number in range(5)]
    moves = [
        ChannelMove("c", "m", "t", engines[number], None, CPU, "a", START, rollback)
        for number, rollback in steps
    ]
    newest_first = moves[::-1]
    way = way_back(newest_first)
    assert moves[-1].engine not in way
    assert len(set(way)) == len(way)
    for engine in way:  # a rollback leads to the next one, and leaves the rest of the way
        newest_first = [replace(moves[0], engine=engine, rollback=True), *newest_first]
        rest = way_back(newest_first)
        assert rest == way[way.index(engine) + 1 :]


def test_what_was_put_back_on_purpose_is_not_a_rollback() -> None:
    a, b, c = (digest_bytes(name) for name in (b"a", b"b", b"c"))
    moves = [
        ChannelMove("c", "m", "t", engine, None, CPU, "anna", START) for engine in (a, b, c, b)
    ]
    assert way_back(moves[::-1]) == [c, a]


def test_the_blast_radius_names_whom_it_touches(bench: Workbench) -> None:
    publication = bench.publication(content=b"1")
    checkpoint = bench.registry.publish_checkpoint(
        CheckpointPublication(publication.directory, WEIGHTS, "w8a16")
    )
    one, two = (
        bench.registry.publish_engine(
            replace(bench.publication(content=content), checkpoint=checkpoint.digest)
        )
        for content in (b"1", b"2")
    )
    for engine in (one, two):
        bench.judge(engine)
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    placement = Placement("node-7", "/models/x", two.digest, START)
    with bench.registry.catalogue.edit() as draft:
        draft.add_placement(placement)
    of_one, of_two = (blast_radius(bench.registry, engine) for engine in (one, two))
    assert [p.channel for p in of_two.channels] == ["prod"]
    assert (of_one.channels, of_two.rollbacks, of_one.placements) == ((), (), ())
    assert [p.engine for p in of_one.rollbacks] == [two.digest]
    assert of_two.placements == (placement,)
    assert (of_one.siblings, of_two.siblings) == ((two,), (one,))
    json.dumps(of_one.as_dict())


def test_the_blast_radius_names_nodes_whose_agents_have_it(bench: Workbench) -> None:
    engine = bench.publish()
    catalogue = bench.registry.catalogue
    node = enrolled(catalogue)
    placed = PlacedEngine(str(engine.digest), "/engines/m", "verified", "confirmed", ("GPU-0",))
    unknown = PlacedEngine(engine_name("another registry's"), "/engines/x", "verified")
    with catalogue.edit(actor="agent") as draft:
        draft.fleet.take([report(node, 1, [placed, unknown])], NOON)
        draft.add_placement(Placement(node.name, "/engines/m", engine.digest, START))
        draft.add_placement(Placement("another", "/engines/m", engine.digest, START))
    found = blast_radius(bench.registry, engine).placements
    assert [(one.node, one.path, one.placed_at) for one in found] == [
        ("another", "/engines/m", START), ("gpu-1", "/engines/m", START),
    ]  # fmt: skip
    with catalogue.edit() as draft:
        draft.forget_placement(node.name, "/engines/m")
    assert [one.placed_at for one in blast_radius(bench.registry, engine).placements] == [
        START, NOON,
    ]  # fmt: skip
    assert "placement gpu-1:/engines/m" in lineage(bench.registry, engine.digest).nodes


def test_a_placement_is_where_it_was_put_last(bench: Workbench) -> None:
    one, two = bench.publish(content=b"1"), bench.publish(content=b"2")
    with bench.registry.catalogue.edit() as draft:
        for engine in (one, two):
            draft.add_placement(Placement("node", "/models/x", engine.digest, START))
        assert [p.engine for p in draft.placements()] == [two.digest]
        draft.forget_placement("node", "/models/x")
        assert draft.placements(two.digest) == []
        with pytest.raises(RecordNotFoundError):
            draft.forget_placement("node", "/models/x")


def test_a_revocation_that_died_before_its_row_is_taken_in(bench: Workbench) -> None:
    engine = put(bench, b"1")
    envelope = sign(revocation(engine, Revocation("wrong", "anna", START)), bench.signers.revoker)
    bench.registry.store.put_document(
        f"{engine.path}/attestations/revocation-{digest_bytes(envelope).short}.dsse.json", envelope
    )
    with pytest.raises(GateClosedError, match="revoked"):
        bench.registry.set_channel("canary", engine.digest, CPU, actor="anna")
    with bench.registry.catalogue.read() as view:
        (change,) = view.standing(engine.digest)
    assert (change.reason, change.actor) == ("wrong", "anna")
