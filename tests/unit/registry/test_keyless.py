"""Keyless signatures: real bundles count offline, for their identity and issuer, and no others."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature
from sigstore.errors import VerificationError
from sigstore.hashes import Hashed
from sigstore.models import Bundle
from sigstore.verify.policy import Identity
from sigstore_models.common.v1 import HashAlgorithm

from registry.digests import canonical_json
from registry.envelopes import Asked, read_envelope, seal, signed_payload
from registry.errors import IntegrityError, InvalidRecordError, StoreUnavailableError
from registry.keyless import verifier_of
from registry.signers import signer_at
from registry.trust import Purpose, Trust, TrustedKey, TrustRoot
from registry.trust_file import trust_as_dict, trust_from_dict
from tests.factories.registry import Signers

ASSETS = Path(__file__).parents[2] / "factories" / "keyless"
DATA = (ASSETS / "artifact.txt").read_bytes()
WORKFLOW = (
    "https://github.com/trailofbits/rfc8785.py/.github/workflows/release.yml@refs/tags/v0.1.2"
)
IDENTITY, ISSUER = "william@yossarian.net", "https://github.com/login/oauth"
ROOT = str(
    files("sigstore") / "_store" / "https%3A%2F%2Ftuf-repo-cdn.sigstage.dev" / "trusted_root.json"
)
"""Of the staging instance, which takes the part of a private one here."""
ASKED = Asked(Purpose.VERDICT, TrustRoot.PRODUCTION)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trusted root but those that ship: a machine on which sigstore never ran."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


def entry(
    identity: str = IDENTITY, issuer: str = ISSUER, trusted_root: str | None = ROOT
) -> TrustedKey:
    purposes = frozenset({Purpose.VERDICT})
    return TrustedKey.keyless(identity, issuer, purposes, TrustRoot.PRODUCTION, trusted_root)


def bundle() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ASSETS / "bundle.sigstore.json").read_text())
    return found


def verify(key: TrustedKey, data: bytes = DATA, said: object = None) -> None:
    fields = {"bundle": bundle() if said is None else said}
    key.as_sslib().verify_signature(Signature(key.keyid, "00", fields), data)


def test_a_real_bundle_counts_without_a_network() -> None:
    verify(entry())


@pytest.mark.parametrize(
    "other",
    [
        entry(identity="somebody@else.net"), entry(issuer="https://accounts.google.com"),
        entry(trusted_root=None),
    ],
    ids=["identity", "issuer", "instance"],
)  # fmt: skip
def test_it_counts_for_nobody_else(other: TrustedKey) -> None:
    with pytest.raises(UnverifiedSignatureError):
        verify(other)


def test_it_counts_for_no_other_bytes() -> None:
    with pytest.raises(UnverifiedSignatureError, match="digest mismatch"):
        verify(entry(), DATA + b"\n")


def _flip(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(bytes(raw)).decode()


def _entry_of(said: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = said["verificationMaterial"]["tlogEntries"][0]
    return found


def signature(said: dict[str, Any]) -> None:
    said["messageSignature"]["signature"] = _flip(said["messageSignature"]["signature"])


def digest(said: dict[str, Any]) -> None:
    named = said["messageSignature"]["messageDigest"]
    named["digest"] = _flip(named["digest"])


def certificate(said: dict[str, Any]) -> None:
    named = said["verificationMaterial"]["certificate"]
    named["rawBytes"] = _flip(named["rawBytes"])


def log_body(said: dict[str, Any]) -> None:
    _entry_of(said)["canonicalizedBody"] = _flip(_entry_of(said)["canonicalizedBody"])


def log_promise(said: dict[str, Any]) -> None:
    promise = _entry_of(said)["inclusionPromise"]
    promise["signedEntryTimestamp"] = _flip(promise["signedEntryTimestamp"])


def log_proof(said: dict[str, Any]) -> None:
    proof = _entry_of(said)["inclusionProof"]
    proof["hashes"][0] = _flip(proof["hashes"][0])


def log_time(said: dict[str, Any]) -> None:
    _entry_of(said)["integratedTime"] = "1900000000"


def no_log(said: dict[str, Any]) -> None:
    said["verificationMaterial"]["tlogEntries"] = []


def no_signature(said: dict[str, Any]) -> None:
    del said["messageSignature"]


@pytest.mark.parametrize(
    "tamper",
    [signature, digest, certificate, log_body, log_promise, log_proof, log_time, no_log,
     no_signature],
)  # fmt: skip
def test_a_bundle_that_was_changed_counts_for_nothing(
    tamper: Callable[[dict[str, Any]], None],
) -> None:
    said = bundle()
    tamper(said)
    with pytest.raises(UnverifiedSignatureError):
        verify(entry(), said=said)


@pytest.mark.parametrize("said", [{}, [], "bundle", 5, {"mediaType": "x"}])
def test_what_is_no_bundle_counts_for_nothing(said: object) -> None:
    with pytest.raises(UnverifiedSignatureError):
        verify(entry(), said=said)


def test_the_root_that_ships_vouches_for_the_public_instance() -> None:
    said = (ASSETS / "wheel.sigstore.json").read_text()
    named = json.loads(said)["messageSignature"]["messageDigest"]["digest"]
    hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=base64.b64decode(named))
    policy = Identity(identity=WORKFLOW, issuer="https://token.actions.githubusercontent.com")
    verifier_of(None).verify_artifact(hashed, Bundle.from_json(said), policy)
    with pytest.raises(VerificationError):
        verifier_of(ROOT).verify_artifact(hashed, Bundle.from_json(said), policy)


def test_an_envelope_with_a_bundle_of_something_else_is_not_signed() -> None:
    key = entry()
    document = json.loads(seal(b"{}"))
    document["signatures"] = [{"keyid": key.keyid, "sig": "AA==", "bundle": bundle()}]
    envelope = canonical_json(document)
    assert read_envelope(envelope).signatures[key.keyid].unrecognized_fields["bundle"] == bundle()
    with pytest.raises(IntegrityError, match="signature does not count"):
        signed_payload(envelope, Trust((key,)), ASKED)


def test_an_envelope_of_a_key_counts_beside_a_keyless_signer() -> None:
    signers = Signers()
    trust = replace(signers.trust, keys=(entry(), *signers.trust.keys))
    payload, found = signed_payload(seal(b"{}", signers.validator), trust, ASKED)
    assert (payload, found) == (b"{}", (signers.validator.public_key.keyid,))


def test_an_entry_is_read_as_it_was_written_and_is_one_signer() -> None:
    trust = Trust((entry(), entry(trusted_root=None, identity="b@c.net")))
    assert trust_from_dict(json.loads(json.dumps(trust_as_dict(trust))), where="here") == trust
    assert trust.different([one.keyid for one in trust.keys]) == 2
    assert entry().as_dict()["identity"] == IDENTITY


@pytest.mark.parametrize(
    "change",
    [{"identity": ""}, {"issuer": None}, {"identity": 5}, {"trusted_root": "here.json"},
     {"trusted_root": 5}, {"scheme": "ed25519"}, {"keyid": "0" * 64}, {"identity": "b@c.net"}],
)  # fmt: skip
def test_an_entry_that_could_mean_somebody_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecordError):
        TrustedKey.from_dict({**entry().as_dict(), **change})


def test_an_entry_that_is_trusted_again_gets_the_root_that_is_given_and_keeps_it() -> None:
    trust = Trust().with_key(entry(trusted_root=None)).with_key(entry(trusted_root=ROOT))
    assert [one.trusted_root for one in trust.keys] == [ROOT]
    assert trust.with_key(entry(trusted_root=None)) == trust


def test_a_trusted_root_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    for path in (tmp_path / "root.json", tmp_path / "none.json"):
        with pytest.raises(InvalidRecordError, match=path.name):
            verify(entry(trusted_root=str(path)))


def test_without_the_extra_it_is_said_that_nothing_can_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    with pytest.raises(StoreUnavailableError, match=r"enginekeeper\[sigstore\]"):
        verify(entry())


def test_only_a_keyless_entry_is_who_signs_without_a_key() -> None:
    with pytest.raises(IntegrityError, match="no trusted key fits"):
        signer_at("sigstore:", Signers().trust, Purpose.VERDICT)


def test_who_has_no_identity_to_sign_as_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)
    with pytest.raises(StoreUnavailableError, match="Failed to detect Sigstore credentials"):
        signer_at("sigstore:", Trust((entry(),)), Purpose.VERDICT)
