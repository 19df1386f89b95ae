"""Keys in AWS KMS, against moto's server: what it lacks, and what it signs otherwise, is said.

moto 5.2.5 hashes the digest that securesystemslib sends once more (`MessageType=DIGEST` is not
implemented there), so its signatures are wrong: the very thing that a signer here must notice.
That a right one counts has not been seen against AWS.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import boto3
import pytest

from registry.attestations import VerdictClaim, sign, test_result
from registry.digests import digest_bytes
from registry.errors import IntegrityError, StoreUnavailableError
from registry.signers import public_key_in, signer_at
from registry.trust import Purpose, Trust
from registry.types import Result
from tests.factories.registry import CPU, START
from tests.fakes import servers

ENGINE = digest_bytes(b"engine")
VERDICT = test_result(ENGINE, VerdictClaim(Result.PASS, CPU, digest_bytes(b"d"), START))


@pytest.fixture
def key_id(moto_server: servers.S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    kms = boto3.client("kms")
    made = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]
    public = kms.get_public_key(KeyId=made["KeyId"])["PublicKey"]
    (tmp_path / "public.pem").write_text(ssl.DER_cert_to_PEM_cert(public).replace(
        "CERTIFICATE", "PUBLIC KEY"))  # fmt: skip
    return str(made["KeyId"])


def test_a_kms_that_signs_something_else_is_noticed(key_id: str, tmp_path: Path) -> None:
    trust = Trust((public_key_in(tmp_path / "public.pem", Purpose.VERDICT),))
    signer = signer_at(f"awskms:{key_id}", trust, Purpose.VERDICT)
    with pytest.raises(IntegrityError, match="not the key that the trust file lists"):
        sign(VERDICT, signer)


@pytest.mark.usefixtures("key_id")
def test_a_key_that_the_kms_does_not_have_is_said(tmp_path: Path) -> None:
    trust = Trust((public_key_in(tmp_path / "public.pem", Purpose.VERDICT),))
    signer = signer_at("awskms:alias/none", trust, Purpose.VERDICT)
    with pytest.raises(StoreUnavailableError, match="does not sign"):
        sign(VERDICT, signer)
