"""Key files and the trust file: private means private, removed means removed."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from securesystemslib.signer import CryptoSigner

from registry.attestations import VerdictClaim, sign, test_result, verify
from registry.digests import digest_bytes
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.signing import TRUST_FILE, create_key, key_path, load_signer, open_signer, trusted
from registry.trust import Purpose, Trust, TrustedKey, TrustRoot
from registry.trust_file import add_trusted_key, read_trust, trust_as_dict
from registry.types import Result
from tests.factories.registry import CPU, START

ENGINE = digest_bytes(b"engine")
BUILDING = (Purpose.BUILD, Purpose.VERDICT, Purpose.REFERENCE, Purpose.REVOCATION)
VERDICT = test_result(ENGINE, VerdictClaim(Result.PASS, CPU, digest_bytes(b"d"), START))


def test_a_key_is_made_once_private_and_trusted(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first = open_signer(keys, Purpose.VERDICT)
    again = open_signer(keys, Purpose.VERDICT)
    assert first.public_key == again.public_key
    assert stat.S_IMODE(key_path(keys, Purpose.VERDICT).stat().st_mode) == 0o600
    trust = read_trust(keys / TRUST_FILE)
    verify(sign(VERDICT, again), trust, Purpose.VERDICT, subject=ENGINE)


def test_the_first_signature_makes_a_key_of_its_own_for_every_role(tmp_path: Path) -> None:
    open_signer(tmp_path / "keys", Purpose.BUILD)
    signers = [open_signer(tmp_path / "keys", purpose) for purpose in BUILDING]
    assert len({signer.public_key.keyid for signer in signers}) == len(BUILDING)
    trust = read_trust(tmp_path / "keys" / TRUST_FILE)
    for purpose in BUILDING:
        assert len(trust.keys_for(purpose, TrustRoot.PRODUCTION)) == 1
        assert trust.keys_for(purpose, TrustRoot.SIMULATED) == []
    assert {path.name for path in tmp_path.iterdir()} == {"keys", ".keys.lock"}


def test_keys_that_were_half_made_by_who_was_killed_are_not_kept(tmp_path: Path) -> None:
    half = tmp_path / ".keys.new"
    half.mkdir()
    (half / "builder.pem").write_bytes(b"half a key")

    open_signer(tmp_path / "keys", Purpose.BUILD)

    assert not half.exists()


def test_nobody_may_override_the_gate_by_the_way(tmp_path: Path) -> None:
    open_signer(tmp_path / "keys", Purpose.BUILD)
    for purpose in set(Purpose) - set(BUILDING):
        assert read_trust(tmp_path / "keys" / TRUST_FILE).keys_for(
            purpose, TrustRoot.PRODUCTION) == []  # fmt: skip
        with pytest.raises(RecordNotFoundError, match="none is made by the way"):
            open_signer(tmp_path / "keys", purpose)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_no_key_is_made_where_a_trust_file_was_given(tmp_path: Path, purpose: Purpose) -> None:
    stranger = trusted(CryptoSigner.generate_ed25519(), purpose)
    add_trusted_key(tmp_path / TRUST_FILE, stranger)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RecordNotFoundError, match="key create"):
        open_signer(tmp_path, purpose)
    assert sorted(tmp_path.iterdir()) == before
    assert read_trust(tmp_path / TRUST_FILE).keys == (stranger,)


def test_a_key_that_was_deleted_is_not_made_anew(tmp_path: Path) -> None:
    open_signer(tmp_path, Purpose.BUILD)
    trust = read_trust(tmp_path / TRUST_FILE)
    key_path(tmp_path, Purpose.BUILD).unlink()
    with pytest.raises(RecordNotFoundError, match="none is made by the way"):
        open_signer(tmp_path, Purpose.BUILD)
    assert read_trust(tmp_path / TRUST_FILE) == trust


def test_a_key_made_by_name_counts_once_it_is_trusted_by_name(tmp_path: Path) -> None:
    made = create_key(tmp_path, Purpose.BUILD)
    with pytest.raises(RecordNotFoundError, match="no trust file"):
        open_signer(tmp_path, Purpose.BUILD)
    add_trusted_key(tmp_path / TRUST_FILE, made)
    assert open_signer(tmp_path, Purpose.BUILD).public_key.keyid == made.keyid
    with pytest.raises(ConflictError, match="never overwritten"):
        create_key(tmp_path, Purpose.BUILD)


def test_keys_that_cannot_be_made_are_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailableError, match="no keys can be made"):
        open_signer(tmp_path / "file" / "keys", Purpose.BUILD)


def test_many_first_users_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: open_signer(tmp_path, Purpose.BUILD), range(8)))
    assert len({signer.public_key.keyid for signer in made}) == 1
    assert len(read_trust(tmp_path / TRUST_FILE).keys) == len(BUILDING)


def test_a_key_removed_from_the_trust_file_stays_removed(tmp_path: Path) -> None:
    signer = open_signer(tmp_path, Purpose.VERDICT)
    (tmp_path / TRUST_FILE).write_text(json.dumps(trust_as_dict(Trust())))
    with pytest.raises(IntegrityError, match="count for nothing") as caught:
        open_signer(tmp_path, Purpose.VERDICT)
    assert "trusted for nothing" in str(caught.value)
    with pytest.raises(IntegrityError, match="does not count"):
        verify(
            sign(VERDICT, signer), read_trust(tmp_path / TRUST_FILE), Purpose.VERDICT,
            subject=ENGINE,
        )  # fmt: skip


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    open_signer(tmp_path, Purpose.BUILD)
    key_path(tmp_path, Purpose.BUILD).chmod(mode)
    with pytest.raises(InvalidRecordError, match="others may read"):
        open_signer(tmp_path, Purpose.BUILD)


def _pem(encryption: KeySerializationEncryption) -> bytes:
    key = generate_private_key(SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "data", [b"", b"not a key", _pem(BestAvailableEncryption(b"secret"))],
    ids=["empty", "text", "with a passphrase"],
)  # fmt: skip
def test_what_is_no_usable_key_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(InvalidRecordError, match="not a private key"):
        load_signer(path)


def test_an_ecdsa_key_of_ones_own_works(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(_pem(NoEncryption()))
    path.chmod(0o600)
    signer = load_signer(path)
    trust = add_trusted_key(tmp_path / TRUST_FILE, trusted(signer, Purpose.VERDICT))
    assert read_trust(tmp_path / TRUST_FILE) == trust
    verify(sign(VERDICT, signer), trust, Purpose.VERDICT, subject=ENGINE)


def test_an_absent_key_or_trust_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError):
        load_signer(tmp_path / "key.pem")
    with pytest.raises(RecordNotFoundError, match="no trust file"):
        read_trust(tmp_path / TRUST_FILE)


def test_a_key_can_be_trusted_for_more(tmp_path: Path) -> None:
    path = tmp_path / TRUST_FILE
    signer = CryptoSigner.generate_ed25519()
    add_trusted_key(path, trusted(signer, Purpose.BUILD))
    trust = add_trusted_key(path, trusted(signer, Purpose.VERDICT))
    assert [key.purposes for key in trust.keys] == [{Purpose.BUILD, Purpose.VERDICT}]
    assert trust.purposes_of([signer.public_key.keyid]) == [
        "build (production)", "verdict (production)",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_trust_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / TRUST_FILE
    path.write_text(json.dumps(trust_as_dict(Trust())))
    path.chmod(mode)
    with pytest.raises(InvalidRecordError, match="others on this host"):
        read_trust(path)


ENTRY = trusted(CryptoSigner.generate_ed25519(), Purpose.BUILD).as_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"keyid": "0" * 64}, {"purposes": ["everything"]}, {"root": "both"}, {"public": 5},
        {"purposes": None}, {"keytype": "rot13"}, {"scheme": "none"},
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidRecordError):
        TrustedKey.from_dict({**ENTRY, **change})


@pytest.mark.parametrize("text", ["", "[]", '{"schema":3,"keys":[]}', '{"schema":1}'])
def test_what_is_no_trust_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / TRUST_FILE
    path.write_text(text)
    path.chmod(0o644)
    with pytest.raises(InvalidRecordError):
        read_trust(path)


def test_a_key_for_what_is_simulated_is_made_beside_the_real_ones_and_counts_for_nothing_real(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    real = open_signer(keys, Purpose.BUILD)

    simulated = open_signer(keys, Purpose.BUILD, simulated=True)

    again = open_signer(keys, Purpose.BUILD, simulated=True)
    assert simulated.public_key == again.public_key != real.public_key
    trust = read_trust(keys / TRUST_FILE)
    assert len(trust.keys_for(Purpose.BUILD, TrustRoot.PRODUCTION)) == 1
    assert len(trust.keys_for(Purpose.BUILD, TrustRoot.SIMULATED)) == 1
    assert trust.keys_for(Purpose.VERDICT, TrustRoot.SIMULATED) == []


def test_a_home_whose_first_signature_is_simulated_can_sign_what_is_real(tmp_path: Path) -> None:
    open_signer(tmp_path / "keys", Purpose.BUILD, simulated=True)

    for purpose in BUILDING:
        open_signer(tmp_path / "keys", purpose)


def test_a_simulated_key_that_was_taken_away_is_not_replaced_by_the_way(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    open_signer(keys, Purpose.BUILD, simulated=True)
    key_path(keys, Purpose.BUILD, simulated=True).unlink()

    with pytest.raises(RecordNotFoundError, match="none is made by the way"):
        open_signer(keys, Purpose.BUILD, simulated=True)


def test_who_was_killed_while_trusting_a_simulated_key_leaves_one_that_is_taken_up(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    open_signer(keys, Purpose.BUILD)
    made = open_signer(keys, Purpose.BUILD, simulated=True)
    path = key_path(keys, Purpose.BUILD, simulated=True)
    path.rename(path.with_suffix(".next.pem"))

    assert open_signer(keys, Purpose.BUILD, simulated=True).public_key == made.public_key


def test_nobody_may_override_the_gate_for_what_is_simulated_by_the_way(tmp_path: Path) -> None:
    with pytest.raises(RecordNotFoundError, match="none is made by the way"):
        open_signer(tmp_path / "keys", Purpose.WAIVER, simulated=True)
