"""Keys in a PKCS #11 token: needs python-pkcs11 and a token library, as SoftHSM's.

SOFTHSM2_CONF=… softhsm2-util --init-token --free --label ek --pin 1234 --so-pin 5678
PYKCS11LIB=/usr/lib/softhsm/libsofthsm2.so pytest tests/integration/registry/test_hsm.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import HSMSigner

from registry.attestations import VerdictClaim, sign, test_result, verify
from registry.digests import digest_bytes
from registry.errors import StoreUnavailableError
from registry.signers import pin_in, signer_at
from registry.trust import Purpose, Trust, TrustedKey, TrustRoot
from registry.types import Result
from tests.factories.registry import CPU, START

pkcs11: Any = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
if "PYKCS11LIB" not in os.environ:
    pytest.skip("PYKCS11LIB names no token library", allow_module_level=True)

ENGINE = digest_bytes(b"engine")
VERDICT = test_result(ENGINE, VerdictClaim(Result.PASS, CPU, digest_bytes(b"d"), START))
KEY = 7


@pytest.fixture
def trust() -> Trust:
    token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="ek")
    with token.open(user_pin="1234", rw=True) as session:
        for old in session.get_objects({pkcs11.Attribute.ID: bytes([KEY])}):
            old.destroy()
        curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
        )
        parameters.generate_keypair(store=True, id=bytes([KEY]), label="ek")
    _, key = HSMSigner.import_(KEY, "ek", lambda _: "1234")
    public = key.keyval["public"]
    entry = TrustedKey(
        key.keytype, key.scheme, public, frozenset({Purpose.VERDICT}), TrustRoot.PRODUCTION
    )
    return Trust((entry,))


def pin(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pin"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_key_in_a_token_signs_what_then_counts(trust: Trust, tmp_path: Path) -> None:
    secrets = pin_in(pin(tmp_path, "1234"))
    signer = signer_at(f"hsm:{KEY}?label=ek", trust, Purpose.VERDICT, secrets=secrets)
    verify(sign(VERDICT, signer), trust, Purpose.VERDICT, subject=ENGINE)


def test_a_wrong_pin_is_said_and_not_shown(trust: Trust, tmp_path: Path) -> None:
    secrets = pin_in(pin(tmp_path, "9999"))
    signer = signer_at(f"hsm:{KEY}?label=ek", trust, Purpose.VERDICT, secrets=secrets)
    with pytest.raises(StoreUnavailableError) as caught:
        sign(VERDICT, signer)
    assert "9999" not in str(caught.value)
