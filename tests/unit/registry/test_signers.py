"""Signers by address: files of two kinds, what is not trusted, and what does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
)

from registry.attestations import VerdictClaim, sign, test_result, verify
from registry.digests import digest_bytes
from registry.errors import (
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.signers import pin_in, public_key_in, signer_at
from registry.signing import trusted
from registry.trust import Purpose, Trust, TrustedKey
from registry.types import Result
from tests.factories.registry import CPU, START

ENGINE = digest_bytes(b"engine")
VERDICT = test_result(ENGINE, VerdictClaim(Result.PASS, CPU, digest_bytes(b"d"), START))
OTHER = CryptoSigner.generate_ed25519()


def written(path: Path, signer: CryptoSigner) -> str:
    path.write_bytes(signer.private_bytes)
    path.chmod(0o600)
    return f"file:{path}"


def key_of(signer: CryptoSigner, purpose: Purpose = Purpose.VERDICT) -> TrustedKey:
    return trusted(signer, purpose)


@pytest.mark.parametrize(
    "signer",
    [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()],
    ids=["ed25519", "ecdsa"],
)
@pytest.mark.parametrize("scheme", ["file:", "file://", "file2:"])
def test_a_file_signs_what_then_counts(tmp_path: Path, signer: CryptoSigner, scheme: str) -> None:
    address = written(tmp_path / "key.pem", signer).replace("file:", scheme, 1)
    trust = Trust((key_of(signer), key_of(OTHER)))
    envelope = sign(VERDICT, signer_at(address, trust, Purpose.VERDICT))
    verify(envelope, trust, Purpose.VERDICT, subject=ENGINE)


def test_a_file_whose_key_is_trusted_for_something_else_signs_nothing(tmp_path: Path) -> None:
    address = written(tmp_path / "key.pem", OTHER)
    with pytest.raises(IntegrityError, match="no trusted key"):
        signer_at(address, Trust((key_of(OTHER, Purpose.BUILD),)), Purpose.VERDICT)
    with pytest.raises(IntegrityError, match="no trusted key"):
        signer_at(address, Trust((key_of(OTHER),)), Purpose.VERDICT, simulated=True)


@pytest.mark.parametrize("address", ["", "builder.pem", "ftp:key", "awskms", ":x"])
def test_what_is_no_address_of_a_key_is_refused(address: str) -> None:
    with pytest.raises(InvalidRecordError, match="not the address of a key"):
        signer_at(address, Trust(), Purpose.BUILD)


class Token(Signer):
    """A signer behind an address, as a KMS is: it signs with whatever lies there."""

    holds: CryptoSigner = OTHER
    error: Exception | None = None

    def __init__(self, public_key: Key) -> None:
        self._public = public_key

    @property
    def public_key(self) -> Key:
        return self._public

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Token:
        assert priv_key_uri.startswith("token:")
        assert secrets_handler is None
        return cls(public_key)

    def sign(self, payload: bytes) -> Signature:
        if self.error is not None:
            raise self.error
        return Signature(self._public.keyid, self.holds.sign(payload).signature)


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "token", Token)


def test_a_key_in_a_token_signs_what_then_counts() -> None:
    trust = Trust((key_of(OTHER),))
    envelope = sign(VERDICT, signer_at("token:1", trust, Purpose.VERDICT))
    verify(envelope, trust, Purpose.VERDICT, subject=ENGINE)


def test_a_token_that_holds_another_key_is_noticed_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Token, "holds", CryptoSigner.generate_ed25519())
    signer = signer_at("token:1", Trust((key_of(OTHER),)), Purpose.VERDICT)
    with pytest.raises(IntegrityError, match="not the key that the trust file lists"):
        sign(VERDICT, signer)


def test_of_several_trusted_keys_the_address_says_which() -> None:
    trust = Trust((key_of(OTHER), key_of(CryptoSigner.generate_ed25519())))
    with pytest.raises(IntegrityError, match="not told which"):
        signer_at("token:1", trust, Purpose.VERDICT)
    start = key_of(OTHER).keyid[:12]
    assert signer_at(f"token:1#{start}", trust, Purpose.VERDICT).public_key.keyid.startswith(start)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError("no route"), StoreUnavailableError), (ValueError("no slot"), InvalidRecordError)],
)
def test_what_a_token_says_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    monkeypatch.setattr(Token, "error", error)
    signer = signer_at("token:1", Trust((key_of(OTHER),)), Purpose.VERDICT)
    with pytest.raises(expected, match=str(error)):
        sign(VERDICT, signer)


def test_a_signer_whose_library_is_missing_is_unavailable() -> None:
    address = "gcpkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
    with pytest.raises(StoreUnavailableError, match="not installed"):
        signer_at(address, Trust((key_of(OTHER),)), Purpose.VERDICT)


def test_a_pin_is_read_from_a_file_that_nobody_else_may_read(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_text("1234\n")
    path.chmod(0o600)
    assert pin_in(path)("pin") == "1234"
    path.chmod(0o640)
    with pytest.raises(InvalidRecordError, match="others may read") as caught:
        pin_in(path)("pin")
    assert "1234" not in str(caught.value)
    with pytest.raises(RecordNotFoundError):
        pin_in(tmp_path / "none")("pin")


def test_a_public_key_is_read_from_the_file_that_a_kms_gives_out(tmp_path: Path) -> None:
    signer, path = CryptoSigner.generate_ecdsa(), tmp_path / "public.pem"
    crypto = signer._private_key.public_key()
    path.write_bytes(crypto.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert public_key_in(path, Purpose.VERDICT) == key_of(signer)
    path.write_text("-----BEGIN PUBLIC KEY-----")
    with pytest.raises(InvalidRecordError, match="not a public key"):
        public_key_in(path, Purpose.VERDICT)
    with pytest.raises(RecordNotFoundError):
        public_key_in(tmp_path / "none.pem", Purpose.VERDICT)
