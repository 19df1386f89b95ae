"""Waivers: what they open, what they never open, and who may say so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import layout
from registry.attestations import sign
from registry.digests import digest_bytes
from registry.envelopes import countersign
from registry.environments import DriverScope
from registry.errors import GateClosedError, IntegrityError, InvalidRecordError
from registry.gate import Refusal
from registry.lifecycle import quarantine, revoke
from registry.models import WaiverRow
from registry.scrubbing import scrub
from registry.statements import statements_of
from registry.trust import KeyRevocation, Purpose, Trust
from registry.types import Engine, Result, Waiver
from registry.waivers import (
    WAIVABLE,
    WaiverGrant,
    ending_statement,
    read_draft,
    verify_waiver,
    waiver_statement,
)
from tests.factories.registry import CPU, H100, START, Workbench, waiver_of, with_registry

DAY = timedelta(days=1)


def rule(bench: Workbench, engine: Engine, **node: Any) -> str:  # noqa: ANN401 - of the gate
    return bench.registry.gate(engine.digest, CPU, **node).rule


def later(bench: Workbench, by: timedelta) -> Workbench:
    trust = replace(bench.registry.trust, clock=lambda: START + by)
    return with_registry(bench, trust=trust)


@pytest.mark.parametrize(
    ("result", "closed_by"),
    [
        (None, "never-judged"),
        (Result.FAIL, "verdict-failed"),
        (Result.INCONCLUSIVE, "verdict-inconclusive"),
    ],
)
def test_a_waived_rule_opens_the_gate_and_says_whose_waiver_it_was(
    bench: Workbench, result: Result | None, closed_by: str
) -> None:
    engine = bench.publish()
    if result is not None:
        bench.judge(engine, result)
    assert rule(bench, engine) == closed_by
    bench.waive(engine, closed_by)
    decision = bench.registry.gate(engine.digest, CPU)
    assert (decision.is_open, decision.rule) == (True, "waived")
    (said,) = decision.waived
    for word in (closed_by, "anna", "the fleet is on fire", "2026-12-24"):
        assert word in said
        assert word in "\n".join(decision.evidence)
    decision.require_open()


def test_a_waived_engine_gets_into_a_channel(bench: Workbench) -> None:
    engine = bench.publish()
    with pytest.raises(GateClosedError):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    bench.waive(engine, "never-judged")
    position = bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert position.engine == engine.digest


def test_a_waiver_of_one_rule_leaves_the_others(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine, Result.FAIL)
    refusing = with_registry(bench, compatibility=lambda _k, _e: Refusal("r", "too old"))
    refusing.waive(engine, "incompatible")
    assert rule(refusing, engine) == "verdict-failed"
    refusing.waive(engine, "verdict-failed")
    decision = refusing.registry.gate(engine.digest, CPU)
    assert (decision.rule, len(decision.waived)) == ("waived", 2)


@pytest.mark.parametrize("later_result", [Result.FAIL, Result.INCONCLUSIVE])
def test_a_waiver_of_one_verdict_does_not_cover_a_later_one(
    bench: Workbench, later_result: Result
) -> None:
    engine = bench.publish()
    first = bench.judge(engine, Result.INCONCLUSIVE)
    bench.waive(engine, "verdict-failed", "verdict-inconclusive", verdict=first.digest)
    assert rule(bench, engine) == "waived"
    second = bench.judge(engine, later_result, more={"run": 2})
    decision = bench.registry.gate(engine.digest, CPU)
    assert (decision.is_open, decision.verdict) == (False, second.digest)
    bench.waive(engine, decision.rule)  # of whatever is said
    assert rule(bench, engine) == "waived"


def test_a_waiver_of_an_inconclusive_verdict_does_not_cover_a_failure(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine, Result.INCONCLUSIVE)
    bench.waive(engine, "verdict-inconclusive")
    bench.judge(engine, Result.FAIL)
    assert rule(bench, engine) == "verdict-failed"


def test_a_waiver_that_names_a_verdict_waives_other_rules_as_ever(bench: Workbench) -> None:
    engine = bench.publish()
    failed = bench.judge(engine, Result.FAIL)
    refusing = with_registry(bench, compatibility=lambda _k, _e: Refusal("r", "too old"))
    refusing.waive(engine, "incompatible", "verdict-failed", verdict=failed.digest)
    assert rule(refusing, engine) == "waived"
    with pytest.raises(InvalidRecordError, match="waives what a verdict says"):
        waiver_of("incompatible", verdict=failed.digest)


def test_a_waiver_from_before_verdicts_were_named_names_none() -> None:
    old = {k: v for k, v in waiver_of("verdict-failed").as_dict().items() if k != "verdict"}
    assert WaiverGrant.from_dict(old) == waiver_of("verdict-failed")


def test_a_waiver_that_is_not_needed_is_not_mentioned(bench: Workbench) -> None:
    engine = bench.publish()
    bench.judge(engine)
    bench.waive(engine, "verdict-failed")
    decision = bench.registry.gate(engine.digest, CPU)
    assert (decision.rule, decision.waived) == ("qualified", ())


@given(st.integers(-40, 40))
def test_a_waiver_counts_from_its_first_second_to_its_last(days: int) -> None:
    waiver = Waiver(
        digest_bytes(b"w"), digest_bytes(b"e"), ("never-judged",), None, "r", "anna", START,
        START + 30 * DAY, "p", "{}", simulated=False, recorded_at=START,
    )  # fmt: skip
    assert (waiver.state(START + days * DAY, 90 * DAY) == "in force") is (0 <= days < 30)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 70))
def test_a_waiver_counts_no_longer_than_signed_and_than_the_policy_says(
    signed: int, longest: int, day: int
) -> None:
    waiver = Waiver(
        digest_bytes(b"w"), digest_bytes(b"e"), ("never-judged",), None, "r", "anna", START,
        START + signed * DAY, "p", "{}", simulated=False, recorded_at=START,
    )  # fmt: skip
    state = waiver.state(START + day * DAY, longest * DAY)
    assert (state == "in force") is (day < min(signed, longest))
    assert waiver.ends(longest * DAY) == START + min(signed, longest) * DAY


def test_a_waiver_is_granted_for_as_long_as_the_policy_says(bench: Workbench) -> None:
    engine = bench.publish()
    assert bench.waive(engine, "never-judged", expires_at=START + 90 * DAY).ending is None


@pytest.mark.parametrize("days", [91, 9999])
def test_a_longer_one_is_refused_with_the_latest_date_and_is_nowhere(
    bench: Workbench, days: int
) -> None:
    engine = bench.publish()
    with pytest.raises(InvalidRecordError, match="90 days at most") as error:
        bench.waive(engine, "never-judged", expires_at=START + days * DAY)
    assert "2027-02-22T12:00:00+00:00 at the latest" in str(error.value)
    assert bench.registry.waivers(engine.digest) == []
    assert statements_of(bench.registry.store, engine).names(Purpose.WAIVER) == []


def test_a_longer_waiver_from_elsewhere_counts_as_long_as_the_policy_here_says(
    bench: Workbench,
) -> None:
    engine = bench.publish()
    bench.waive(engine, "never-judged", expires_at=START + 60 * DAY)
    strict = with_registry(bench, trust=replace(bench.registry.trust, max_waiver_days=30))
    decisions = [later(strict, days * DAY).registry.gate(engine.digest, CPU) for days in (29, 30)]
    assert [one.rule for one in decisions] == ["waived", "never-judged"]
    assert "until 2026-12-24" in decisions[0].waived[0]


@pytest.mark.parametrize(("by", "expected"), [(29 * DAY, "waived"), (30 * DAY, "never-judged")])
def test_the_clock_ends_a_waiver(bench: Workbench, by: timedelta, expected: str) -> None:
    engine = bench.publish()
    bench.waive(engine, "never-judged")
    assert rule(later(bench, by), engine) == expected


def test_a_revoked_waiver_opens_nothing_and_cannot_be_granted_again(bench: Workbench) -> None:
    engine = bench.publish()
    waiver = bench.waive(engine, "never-judged")
    ended = bench.end(waiver)
    assert ended.state(START, 90 * DAY) == "revoked"
    assert rule(bench, engine) == "never-judged"
    again = bench.registry.grant_waiver(engine.digest, waiver.envelope.encode())
    assert again == bench.end(ended) == ended
    assert rule(bench, engine) == "never-judged"


def forget_end(bench: Workbench, waiver: Waiver) -> None:
    with bench.registry.catalogue.edit() as draft:
        draft._row(WaiverRow, waiver.digest).ending = None


def test_a_waiver_whose_end_the_catalogue_lost_moves_no_channel(bench: Workbench) -> None:
    engine = bench.publish()
    waiver = bench.end(bench.waive(engine, "never-judged"))
    forget_end(bench, waiver)
    with pytest.raises(GateClosedError, match="no verdict"):
        bench.registry.set_channel("prod", engine.digest, CPU, actor="anna")
    assert bench.registry.waiver(waiver.digest) == waiver
    assert rule(bench, engine) == "never-judged"


def test_a_scrub_takes_in_the_end_of_a_waiver(bench: Workbench) -> None:
    engine = bench.publish()
    waiver = bench.end(bench.waive(engine, "never-judged"))
    forget_end(bench, waiver)
    assert rule(bench, engine) == "waived"  # the gate alone does not look into the store
    assert scrub(bench.registry).revocations == 0
    assert rule(bench, engine) == "never-judged"


def test_a_revoked_waiver_of_a_swept_engine_is_not_granted_again(bench: Workbench) -> None:
    engine = bench.publish()
    ended = bench.end(bench.waive(engine, "never-judged"))
    with bench.registry.catalogue.edit() as draft:
        draft.remove_engine(engine.digest)
    assert bench.publish().digest == engine.digest
    again = bench.registry.grant_waiver(engine.digest, ended.envelope.encode())
    assert again.ending == ended.ending
    assert rule(bench, engine) == "never-judged"


def test_what_nobody_trusted_signed_ends_no_waiver(bench: Workbench) -> None:
    engine = bench.publish()
    waiver = bench.waive(engine, "never-judged")
    statement = ending_statement(waiver, reason="mine", ended_by="mallory", at=START)
    envelope = sign(statement, bench.signers.builder)
    for data in (envelope, b"{}"):
        name = layout.statement_name(engine.digest, layout.WAIVER_END, digest_bytes(data))
        bench.registry.store.put_document(name, data)
    assert scrub(bench.registry).wrong == []
    assert rule(bench, engine) == "waived"


def test_a_waiver_counts_in_its_environment_and_driver_scope_only(bench: Workbench) -> None:
    engine = bench.publish()
    bench.waive(engine, "never-judged", environment=H100)
    patched = replace(H100, driver="580.95.12")
    wider = with_registry(bench, driver_scope=DriverScope.PATCH)
    assert rule(bench, engine) == "never-judged"
    assert bench.registry.gate(engine.digest, H100).rule == "waived"
    assert bench.registry.gate(engine.digest, patched).rule == "never-judged"
    assert wider.registry.gate(engine.digest, patched).rule == "waived"


def test_another_engines_waiver_opens_nothing(bench: Workbench) -> None:
    engine, other = bench.publish(), bench.publish(content=b"other")
    envelope = bench.waive(other, "never-judged").envelope.encode()
    assert rule(bench, engine) == "never-judged"
    with pytest.raises(IntegrityError, match="another artifact"):
        bench.registry.grant_waiver(engine.digest, envelope)


def test_no_waiver_opens_for_what_is_not_signed_or_simulated(bench: Workbench) -> None:
    simulated = bench.publish(content=b"double", simulated=True)
    bench.waive(simulated, *WAIVABLE)
    assert rule(bench, simulated) == "simulated-on-real-node"
    assert rule(bench, simulated, simulated_node=True) == "waived"
    engine = bench.publish()
    bench.judge(engine, Result.FAIL)
    bench.waive(engine, *WAIVABLE)
    builders = tuple(one for one in bench.signers.trust.keys if Purpose.BUILD not in one.purposes)
    unsigned = with_registry(bench, trust=replace(bench.signers.trust, keys=builders))
    assert rule(unsigned, engine) == "build-not-attested"
    judges = tuple(one for one in bench.signers.trust.keys if Purpose.VERDICT not in one.purposes)
    unjudged = with_registry(bench, trust=replace(bench.signers.trust, keys=judges))
    assert rule(unjudged, engine) == "verdict-not-attested"


def test_no_waiver_opens_for_what_is_held(bench: Workbench) -> None:
    engine = bench.publish()
    bench.waive(engine, *WAIVABLE)
    quarantine(bench.registry, engine, "looked odd")
    assert rule(bench, engine) == "quarantined"
    revoke(bench.registry, engine, "wrong answers", bench.signers.revoker)
    assert rule(bench, engine) == "revoked"


@pytest.mark.parametrize(
    "never", ["build-not-attested", "verdict-not-attested", "simulated-on-real-node", "revoked",
              "quarantined", "qualified", ""],
)  # fmt: skip
def test_what_must_never_be_waived_cannot_be_granted(never: str) -> None:
    with pytest.raises(InvalidRecordError, match="cannot be waived"):
        waiver_of("never-judged", never)


@pytest.mark.parametrize(
    "said", [{"reason": " "}, {"expires_at": START}, {"expires_at": START - DAY}]
)
def test_a_waiver_has_a_reason_and_an_end(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecordError, match="ends after it begins"):
        waiver_of("never-judged", **said)
    with pytest.raises(InvalidRecordError):
        waiver_of()


def envelope_of(engine: Engine, grant: WaiverGrant, *signers: Any) -> bytes:  # noqa: ANN401
    return sign(waiver_statement(engine.digest, grant), *signers)


@pytest.mark.parametrize("role", ["builder", "validator", "simulated_approver", "keeper"])
def test_only_an_approver_of_the_same_world_grants(bench: Workbench, role: str) -> None:
    engine = bench.publish()
    envelope = envelope_of(engine, waiver_of("never-judged"), getattr(bench.signers, role))
    with pytest.raises(IntegrityError, match="signature does not count"):
        bench.registry.grant_waiver(engine.digest, envelope)
    assert bench.registry.waivers() == []


CHANGES: dict[str, dict[str, Any]] = {
    "another rule": {"rules": ("verdict-failed",)},
    "everywhere": {"environment": CPU},
    "longer": {"expires_at": START + 90 * DAY},
    "another reason": {"reason": "because"},
    "somebody else": {"granted_by": "bob"},
    "another engine": {"engine": digest_bytes(b"other")},
    "another id": {"digest": digest_bytes(b"other")},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_that_is_not_what_was_signed_opens_nothing(bench: Workbench, change: str) -> None:
    engine = bench.publish()
    waiver = bench.waive(engine, "never-judged")
    with pytest.raises(IntegrityError, match="not what was signed"):
        verify_waiver(engine, replace(waiver, **CHANGES[change]), bench.signers.trust)


def test_waivers_take_as_many_approvers_as_the_policy_says(bench: Workbench) -> None:
    engine, second = bench.publish(), bench.signers.simulated_approver
    approvers = (*bench.signers.trust.keys, bench_key(bench, second))
    trust = replace(bench.signers.trust, keys=approvers, thresholds={Purpose.WAIVER: 2})
    strict = with_registry(bench, trust=trust)
    envelope = envelope_of(engine, waiver_of("never-judged"), bench.signers.approver)
    with pytest.raises(IntegrityError, match="not enough keys"):
        strict.registry.grant_waiver(engine.digest, envelope)
    assert read_draft(envelope, trust).engine == engine.digest
    strict.registry.grant_waiver(engine.digest, countersign(envelope, second))
    assert rule(strict, engine) == "waived"


def bench_key(bench: Workbench, signer: Any) -> Any:  # noqa: ANN401 - a signer and its entry
    entry = next(one for one in bench.signers.trust.keys if one.keyid == signer.public_key.keyid)
    return replace(entry, root=bench.signers.trust.keys[0].root)


def test_a_waiver_falls_with_its_approvers_key(bench: Workbench) -> None:
    engine = bench.publish()
    waiver = bench.waive(engine, "never-judged")
    gone = KeyRevocation(bench.signers.approver.public_key.keyid, "left", START)
    fallen = with_registry(bench, trust=bench.signers.trust.revoking(gone))
    assert rule(fallen, engine) == "never-judged"
    assert [one.name for one in bench.registry.losses(fallen.registry.trust)] == [
        waiver.digest.short
    ]


def test_only_the_statement_about_a_waiver_ends_it(bench: Workbench) -> None:
    engine = bench.publish()
    first = bench.waive(engine, "never-judged")
    second = bench.waive(engine, "verdict-failed")
    statement = ending_statement(second, reason="r", ended_by="anna", at=START)
    with pytest.raises(IntegrityError, match="ends another waiver"):
        bench.registry.end_waiver(first.digest, sign(statement, bench.signers.approver))
    with pytest.raises(IntegrityError, match="signature does not count"):
        bench.registry.end_waiver(second.digest, sign(statement, bench.signers.builder))
    assert rule(bench, engine) == "waived"


def test_nobody_trusted_reads_no_draft(bench: Workbench) -> None:
    envelope = envelope_of(bench.publish(), waiver_of("never-judged"), bench.signers.approver)
    with pytest.raises(IntegrityError):
        read_draft(envelope, Trust())


def test_only_approvers_whose_signature_counts_are_counted(bench: Workbench) -> None:
    engine, signers = bench.publish(), bench.signers
    trust = replace(signers.trust, thresholds={Purpose.WAIVER: 2})
    envelope = envelope_of(engine, waiver_of("never-judged"), signers.approver)
    for stranger in (signers.builder, signers.simulated_approver):
        envelope = countersign(envelope, stranger)
    draft = read_draft(envelope, trust)
    assert (draft.signers, draft.missing) == ((signers.approver.public_key.keyid,), 1)
    ended = trust.ending(draft.signers, START - timedelta(days=1))
    assert read_draft(envelope, ended).missing == 2


def test_a_draft_is_of_its_signers_world(bench: Workbench) -> None:
    real, simulated = bench.publish(), bench.publish(content=b"2", simulated=True)
    said = waiver_of("never-judged", simulated=True)
    draft = read_draft(
        envelope_of(simulated, said, bench.signers.simulated_approver), bench.signers.trust
    )
    draft.require_about(simulated)
    with pytest.raises(IntegrityError, match="do not agree"):
        draft.require_about(real)
    with pytest.raises(IntegrityError, match="simulated is True"):
        read_draft(envelope_of(simulated, said, bench.signers.approver), bench.signers.trust)
