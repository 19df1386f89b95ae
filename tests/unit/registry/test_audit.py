"""The audit log: written with the change or not at all, and no link of it changes unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from registry.audit import AuditEntry, Event, verify_chain
from registry.catalogue import Catalogue, connect, parse_url
from registry.digests import digest_bytes
from registry.errors import ConflictError, GateClosedError, IntegrityError
from registry.lifecycle import quarantine, release, revoke
from registry.types import Placement, Result
from tests.factories.registry import CPU, START, Workbench, with_registry


def log(bench: Workbench) -> list[AuditEntry]:
    with bench.registry.catalogue.read() as view:
        return list(view.audit_entries())


def actions(bench: Workbench) -> list[tuple[str, str]]:
    return [(entry.actor, entry.action) for entry in log(bench)]


def chain(*subjects: str) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for number, subject in enumerate(subjects):
        event = Event("verdict", subject, {"n": number})
        last = entries[-1] if entries else None
        entries.append(AuditEntry.of(event, actor="anna", at=START, after=last))
    return entries


def test_every_change_is_noted_with_who_made_it(bench: Workbench) -> None:
    bench = with_registry(bench, actor="anna@node")
    engine = bench.publish()
    bench.record()
    bench.judge(engine)
    bench.registry.set_channel("prod", engine.digest, CPU, actor="build flow")
    quarantine(bench.registry, engine, "odd answers")
    release(bench.registry, engine, "was the client")
    revoke(bench.registry, engine, "was the engine", bench.signers.revoker)
    assert actions(bench) == [
        ("anna@node", "engine publish"), ("anna@node", "reference publish"),
        ("anna@node", "verdict"), ("build flow", "channel set"),
        ("anna@node", "engine quarantine"), ("anna@node", "engine release"),
        ("anna@node", "engine revoke"),
    ]  # fmt: skip
    assert log(bench)[4].as_dict()["details"] == {"reason": "odd answers"}
    assert log(bench)[4].subject == str(engine.digest)


def test_what_changes_nothing_is_not_noted(bench: Workbench) -> None:
    engine = bench.publish()
    document, envelope = bench.verdict_on(engine)
    for _ in range(2):
        bench.publish()
        bench.registry.record_verdict(engine.digest, document, envelope)
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
        quarantine(bench.registry, bench.publish(content=b"other"), "odd")
    assert [action for _, action in actions(bench)] == [
        "engine publish", "verdict", "channel set", "engine publish", "engine quarantine",
    ]  # fmt: skip


def test_a_change_that_is_not_kept_is_not_noted(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine, Result.FAIL)
    before = log(bench)
    with pytest.raises(GateClosedError):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    with pytest.raises(ConflictError):
        release(bench.registry, engine, "never was")
    assert log(bench) == before


def test_a_change_whose_entry_cannot_be_written_is_not_kept(bench: Workbench) -> None:
    engine = bench.publish()
    placement = Placement("node", "/models/x", engine.digest, START)
    _write(bench.registry.catalogue, "UPDATE audit_log SET previous = digest")
    with pytest.raises(ConflictError), bench.registry.catalogue.edit() as draft:
        draft.add_placement(placement)
    with bench.registry.catalogue.read() as view:
        assert view.placements() == []


def _write(catalogue: Catalogue, statement: str) -> None:
    """Does what somebody with the database's password does."""
    engine = connect(parse_url(catalogue.url))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


FORGERIES = {
    "another actor": ("UPDATE audit_log SET actor = 'bob' WHERE id = 2", "entry 2 was changed"),
    "another subject": ("UPDATE audit_log SET subject = 'x' WHERE id = 1", "entry 1 was changed"),
    "other details": ("UPDATE audit_log SET details = '{}' WHERE id = 3", "entry 3 was changed"),
    "another time": (
        "UPDATE audit_log SET at = '2020-01-01 00:00:00' WHERE id = 2", "entry 2 was changed",
    ),
    "one removed": ("DELETE FROM audit_log WHERE id = 2", "entry 2 is missing"),
    "the first removed": ("DELETE FROM audit_log WHERE id = 1", "entry 1 is missing"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_first_broken_link_is_named(bench: Workbench, forgery: str) -> None:
    for content in (b"1", b"2", b"3"):
        bench.publish(content=content)
    head = verify_chain(log(bench))
    assert head is not None
    assert head.number == 3
    statement, said = FORGERIES[forgery]
    _write(bench.registry.catalogue, statement)
    with pytest.raises(IntegrityError, match=said):
        verify_chain(log(bench))


def test_a_log_whose_end_was_cut_off_is_told_by_who_kept_its_head(bench: Workbench) -> None:
    for content in (b"1", b"2"):
        bench.publish(content=content)
    head = log(bench)[-1].digest
    assert verify_chain(log(bench), known=head) is not None
    _write(bench.registry.catalogue, "DELETE FROM audit_log WHERE id = 2")
    assert verify_chain(log(bench)) is not None
    with pytest.raises(IntegrityError, match="known to have had"):
        verify_chain(log(bench), known=head)


def test_an_entry_that_was_made_anew_breaks_the_one_after_it() -> None:
    first, second, third = chain("a", "b", "c")
    event = Event("verdict", "b", {"n": 1})
    forged = AuditEntry.of(event, actor="eve", at=second.at, after=first)
    with pytest.raises(IntegrityError, match="entry 3 does not follow the one before"):
        verify_chain([first, forged, third])


def test_an_empty_log_is_whole(bench: Workbench) -> None:
    assert verify_chain(log(bench)) is None


CHANGES: dict[str, Callable[[AuditEntry], AuditEntry]] = {
    "number": lambda one: replace(one, number=one.number + 1),
    "at": lambda one: replace(one, at=one.at + timedelta(microseconds=1)),
    "actor": lambda one: replace(one, actor=one.actor + "x"),
    "action": lambda one: replace(one, action=one.action + "x"),
    "subject": lambda one: replace(one, subject=one.subject + "x"),
    "details": lambda one: replace(one, details=one.details + " "),
    "previous": lambda one: replace(one, previous=digest_bytes(b"x")),
    "digest": lambda one: replace(one, digest=digest_bytes(b"x")),
}


@given(
    st.lists(st.text(max_size=5), min_size=1, max_size=5),
    st.sampled_from(sorted(CHANGES)),
    st.data(),
)
def test_no_field_of_any_entry_changes_unnoticed(
    subjects: list[str], field: str, data: st.DataObject
) -> None:
    entries = chain(*subjects)
    assert verify_chain(entries) == entries[-1]
    at = data.draw(st.integers(0, len(entries) - 1))
    entries[at] = CHANGES[field](entries[at])
    with pytest.raises(IntegrityError):
        verify_chain(entries)
