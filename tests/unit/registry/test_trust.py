"""The trust policy: windows, revocations, thresholds, and the file that states them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, SSlibKey

from registry.attestations import VerdictClaim, sign, test_result, verify
from registry.digests import digest_bytes
from registry.envelopes import countersign, seal
from registry.errors import IntegrityError, InvalidRecordError, WithdrawnError
from registry.signing import TRUST_FILE, create_key, load_signer, open_signer, rotate_key, trusted
from registry.trust import CLOCK_SKEW, KeyRevocation, Purpose, Trust, TrustedKey, TrustRoot
from registry.trust_file import change_trust, read_trust, trust_as_dict, trust_from_dict
from registry.types import Result
from tests.factories.registry import CPU, START

ENGINE = digest_bytes(b"engine")
FIRST, SECOND, THIRD = (CryptoSigner.generate_ed25519() for _ in range(3))
NOW = START + timedelta(days=100)
HOUR = timedelta(hours=1)
OFFSETS = st.integers(-200, 200).map(lambda hours: hours * HOUR)


def entry(signer: CryptoSigner, **window: Any) -> TrustedKey:  # noqa: ANN401 - its fields
    return replace(trusted(signer, Purpose.VERDICT), **window)


def policy(*keys: TrustedKey, **more: Any) -> Trust:  # noqa: ANN401 - its fields
    return Trust(keys or (entry(FIRST),), clock=lambda: NOW, **more)


def verdict(*signers: CryptoSigner, at: datetime = START) -> bytes:
    claim = VerdictClaim(Result.PASS, CPU, digest_bytes(b"d"), at)
    return sign(test_result(ENGINE, claim), *(signers or (FIRST,)))


def counts(envelope: bytes, trust: Trust) -> bool:
    try:
        verify(envelope, trust, Purpose.VERDICT, subject=ENGINE)
    except IntegrityError:
        return False
    return True


@given(OFFSETS, OFFSETS, OFFSETS)
def test_a_signature_counts_within_its_keys_window_and_nowhere_else(
    begin: timedelta, end: timedelta, at: timedelta
) -> None:
    trust = policy(entry(FIRST, not_before=START + begin, not_after=START + end))
    assert counts(verdict(at=START + at), trust) is (begin <= at <= end)


def test_a_key_that_has_expired_keeps_what_it_signed_in_time() -> None:
    trust = policy(entry(FIRST, not_after=START + HOUR))
    assert counts(verdict(at=START), trust)
    with pytest.raises(WithdrawnError, match="not valid after"):
        verify(verdict(at=START + 2 * HOUR), trust, Purpose.VERDICT, subject=ENGINE)


@given(st.integers(-3600, 3600))
def test_a_time_that_has_not_come_yet_is_refused(seconds: int) -> None:
    ahead = timedelta(seconds=seconds)
    assert counts(verdict(at=NOW + ahead), policy()) is (ahead <= CLOCK_SKEW)


def revoked(since: datetime | None = None, signer: CryptoSigner = FIRST) -> KeyRevocation:
    return KeyRevocation(signer.public_key.keyid, "stolen laptop", NOW, since)


@given(OFFSETS, OFFSETS)
def test_what_a_revoked_key_signed_since_then_does_not_count(
    since: timedelta, at: timedelta
) -> None:
    trust = policy(revocations=(revoked(START + since),))
    assert counts(verdict(at=START + at), trust) is (at < since)


def test_a_revocation_without_a_time_leaves_nothing_and_says_why() -> None:
    trust = policy(revocations=(revoked(),))
    with pytest.raises(WithdrawnError, match="any more") as caught:
        verify(verdict(), trust, Purpose.VERDICT, subject=ENGINE)
    assert "stolen laptop" in str(caught.value)


def test_what_a_revoked_key_signed_is_not_even_read() -> None:
    envelope = seal(b"not a statement", FIRST)
    with pytest.raises(IntegrityError, match="malformed"):
        verify(envelope, policy(), Purpose.VERDICT, subject=ENGINE)
    with pytest.raises(WithdrawnError):
        verify(envelope, policy(revocations=(revoked(),)), Purpose.VERDICT, subject=ENGINE)


def test_a_revoked_key_that_was_also_taken_out_is_told_from_a_stranger() -> None:
    trust = policy(entry(SECOND), revocations=(revoked(),))
    with pytest.raises(WithdrawnError):
        verify(verdict(FIRST), trust, Purpose.VERDICT, subject=ENGINE)
    with pytest.raises(IntegrityError, match="signature does not count") as caught:
        verify(verdict(THIRD), trust, Purpose.VERDICT, subject=ENGINE)
    assert not isinstance(caught.value, WithdrawnError)


def test_a_forgery_under_a_revoked_name_is_still_refused() -> None:
    forged = json.loads(verdict(THIRD))
    forged["signatures"][0]["keyid"] = FIRST.public_key.keyid
    envelope = json.dumps(forged).encode()
    assert not counts(envelope, policy())
    assert not counts(envelope, policy(revocations=(revoked(),)))
    assert not counts(envelope, policy(revocations=(revoked(NOW),)))


@pytest.mark.parametrize("needed", [1, 2, 3])
@pytest.mark.parametrize("signers", [(FIRST,), (FIRST, SECOND), (FIRST, SECOND, THIRD)])
def test_as_many_different_keys_must_have_signed_as_the_threshold_says(
    signers: tuple[CryptoSigner, ...], needed: int
) -> None:
    keys = [entry(signer) for signer in (FIRST, SECOND, THIRD)]
    trust = policy(*keys, thresholds={Purpose.VERDICT: needed})
    assert counts(verdict(*signers), trust) is (len(signers) >= needed)


def test_what_too_few_have_signed_is_the_policys_doing_and_not_a_forgery() -> None:
    keys, many = (entry(FIRST), entry(SECOND)), {Purpose.VERDICT: 2}
    with pytest.raises(WithdrawnError, match="not enough"):
        verify(verdict(FIRST), policy(*keys, thresholds=many), Purpose.VERDICT, subject=ENGINE)
    halved = policy(*keys, thresholds=many, revocations=(revoked(),))
    with pytest.raises(WithdrawnError, match="not enough"):
        verify(verdict(FIRST, SECOND), halved, Purpose.VERDICT, subject=ENGINE)
    with pytest.raises(IntegrityError, match="does not count") as caught:
        verify(verdict(THIRD), policy(*keys, thresholds=many), Purpose.VERDICT, subject=ENGINE)
    assert not isinstance(caught.value, WithdrawnError)


def test_a_second_signature_can_be_added_to_what_was_signed() -> None:
    trust = policy(entry(FIRST), entry(SECOND), thresholds={Purpose.VERDICT: 2})
    assert counts(countersign(verdict(FIRST), SECOND), trust)
    assert not counts(countersign(verdict(FIRST), FIRST), trust)


def test_keys_that_do_not_count_are_not_counted() -> None:
    stranger = trusted(THIRD, Purpose.BUILD)
    many = {Purpose.VERDICT: 2}
    assert not counts(
        verdict(FIRST, THIRD), policy(entry(FIRST), entry(SECOND), stranger, thresholds=many)
    )
    late = entry(SECOND, not_before=START + HOUR)
    assert not counts(verdict(FIRST, SECOND), policy(entry(FIRST), late, thresholds=many))
    gone = policy(entry(FIRST), entry(SECOND), thresholds=many, revocations=(revoked(),))
    assert not counts(verdict(FIRST, SECOND), gone)


def test_one_key_under_two_names_is_one_signer() -> None:
    first = CryptoSigner.generate_rsa(scheme="rsassa-pss-sha256")
    other = SSlibKey(
        "other", "rsa", "rsassa-pss-sha384", {"public": first.public_key.keyval["public"]}
    )
    keys = [entry(first), entry(CryptoSigner(first._private_key, other))]
    other.keyid, first.public_key.keyid = keys[1].keyid, keys[0].keyid
    envelope = verdict(first, CryptoSigner(first._private_key, other))
    assert counts(envelope, policy(keys[0]))
    assert counts(envelope, policy(keys[1]))
    assert counts(envelope, policy(*keys))
    assert not counts(envelope, policy(*keys, thresholds={Purpose.VERDICT: 2}))


def with_crlf(public: str) -> str:
    return public.replace("\n", "\r\n")


def without_last_newline(public: str) -> str:
    return public.rstrip("\n")


@pytest.mark.parametrize(
    ("made", "spelled"),
    [(CryptoSigner.generate_ecdsa, with_crlf), (CryptoSigner.generate_rsa, with_crlf),
     (CryptoSigner.generate_ecdsa, without_last_newline),
     (CryptoSigner.generate_ed25519, str.upper)],
)  # fmt: skip
def test_one_key_in_two_spellings_is_one_signer(
    made: Callable[[], CryptoSigner], spelled: Callable[[str], str]
) -> None:
    signer = made()
    key = entry(signer)
    signer.public_key.keyid = key.keyid
    again = replace(key, public=spelled(key.public))
    document = json.loads(verdict(signer))
    (signature,) = document["signatures"]
    document["signatures"].append({**signature, "keyid": again.keyid})
    envelope = json.dumps(document).encode()
    assert counts(envelope, policy(key, again))
    two = policy(key, again, thresholds={Purpose.VERDICT: 2})
    assert not counts(envelope, two)
    assert two.signers_now(Purpose.VERDICT, TrustRoot.PRODUCTION) == 1


def test_a_key_that_cannot_be_read_is_one_key_and_verifies_nothing() -> None:
    broken = replace(entry(FIRST), public="zz")
    assert policy(broken).different([broken.keyid]) == 1
    assert not counts(verdict(FIRST), policy(broken))


FULL = policy(
    entry(FIRST, not_before=START, not_after=NOW),
    entry(SECOND),
    revocations=(revoked(), revoked(START, SECOND)),
    thresholds={Purpose.WAIVER: 2},
    snapshot_required=True,
    max_waiver_days=30,
)


def test_the_second_schema_is_read_as_it_was_written() -> None:
    document = json.loads(json.dumps(trust_as_dict(FULL)))
    assert trust_from_dict(document, where="here") == FULL


def test_a_policy_without_a_length_of_waivers_has_the_usual_one_and_writes_none() -> None:
    document = trust_as_dict(replace(FULL, max_waiver_days=90))
    assert "max_waiver_days" not in document
    assert trust_from_dict(document, where="here").max_waiver_days == 90


def test_the_first_schema_is_still_read() -> None:
    document = {"schema": 1, "keys": [entry(FIRST).as_dict()]}
    assert trust_from_dict(document, where="here") == policy()


@pytest.mark.parametrize("field", ["revocations", "thresholds", "snapshot", "max_waiver_days"])
def test_what_the_first_schema_did_not_have_is_not_read_past(field: str) -> None:
    document = {"schema": 1, "keys": [entry(FIRST).as_dict()], field: []}
    with pytest.raises(InvalidRecordError, match=field):
        trust_from_dict(document, where="here")


@pytest.mark.parametrize(
    "change",
    [
        {"revoked_keys": []}, {"thresholds": {"build": 0}}, {"thresholds": {"builds": 1}},
        {"thresholds": {"build": True}}, {"thresholds": []}, {"snapshot": "on"}, {"snapshot": {}},
        {"max_waiver_days": 0}, {"max_waiver_days": True}, {"max_waiver_days": 3651},
        {"max_waiver_days": "30"}, {"max_waiver_days": None},
        {"revocations": {}}, {"revocations": [{}]}, {"schema": True}, {"schema": "2"},
        {"revocations": [{**revoked().as_dict(), "revoked_at": None}]},
        {"keys": [{**entry(FIRST).as_dict(), "not_afer": "2026-11-26T12:00:00Z"}]},
        {"keys": [{**entry(FIRST).as_dict(), "not_after": "2026-11-26T12:00:00"}]},
        {"keys": [{**entry(FIRST).as_dict(), "not_after": 5}]},
        {"keys": [entry(FIRST).as_dict(), entry(FIRST).as_dict()]},
    ],
)  # fmt: skip
def test_a_policy_that_could_mean_something_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecordError):
        trust_from_dict({**trust_as_dict(FULL), **change}, where="here")


def test_rotation_keeps_what_was_signed_and_ends_what_is_signed_later(tmp_path: Path) -> None:
    first = open_signer(tmp_path, Purpose.VERDICT)
    now = datetime.now(UTC)
    old, new = rotate_key(tmp_path, Purpose.VERDICT, now)
    second = open_signer(tmp_path, Purpose.VERDICT)
    assert (first.public_key.keyid, second.public_key.keyid) == (old.keyid, new.keyid)
    trust = read_trust(tmp_path / TRUST_FILE)

    def signed(signer: Any, at: datetime) -> bool:  # noqa: ANN401 - a signer
        return counts(verdict(signer, at=at), trust)

    assert signed(first, now - HOUR)
    assert not signed(first, now + timedelta(minutes=1))
    assert signed(second, now + timedelta(minutes=1))
    assert not (tmp_path / "validator.next.pem").exists()


@pytest.mark.parametrize("step", ["made", "trusted"])
def test_a_rotation_that_was_killed_goes_on_with_the_key_it_made(tmp_path: Path, step: str) -> None:
    open_signer(tmp_path, Purpose.BUILD)
    other = tmp_path / "other"
    made = create_key(other, Purpose.BUILD)
    (other / "builder.pem").rename(tmp_path / "builder.next.pem")
    if step == "trusted":
        change_trust(tmp_path / TRUST_FILE, lambda trust: trust.with_key(made))
    _, new = rotate_key(tmp_path, Purpose.BUILD, datetime.now(UTC))
    assert new.keyid == made.keyid == load_signer(tmp_path / "builder.pem").public_key.keyid


def test_a_key_whose_time_is_over_signs_nothing(tmp_path: Path) -> None:
    signer = open_signer(tmp_path, Purpose.BUILD)
    ended = datetime.now(UTC) - HOUR
    change_trust(
        tmp_path / TRUST_FILE, lambda trust: trust.ending({signer.public_key.keyid}, ended)
    )
    with pytest.raises(IntegrityError, match="count for nothing") as caught:
        open_signer(tmp_path, Purpose.BUILD)
    assert "key rotate builder" in str(caught.value)


def test_a_key_of_the_other_world_has_a_window_of_its_own() -> None:
    keyid = FIRST.public_key.keyid
    double = replace(entry(FIRST), root=TrustRoot.SIMULATED, not_after=START)
    trust = policy(entry(FIRST), double)
    assert trust.doubt(keyid, TrustRoot.PRODUCTION, NOW) is None
    assert trust.doubt(keyid, TrustRoot.SIMULATED, NOW) is not None
