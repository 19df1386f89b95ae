"""Private keys in files: the embedded default, one for each role.

Rules:

- keys are made where something is signed, and only in a home that has none yet: its directory of
  keys appears whole, with a trust file that lists them, or not at all;
- in every other home a key is made, and trusted, when somebody asks for it by name: a trust file
  that was given says whom to trust, and nothing here extends it by the way;
- but for what is simulated: its keys stand under a trust root of their own, where they can vouch
  for nothing real, so a role's is made when a simulated artifact is first signed, once;
- a key file is made with mode 0600 and only overwritten when it is rotated, by name; one that
  others may read is refused.

A process is given the signer of its own role, so that the step that builds cannot sign a verdict.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from registry.disks import disk_full, is_full
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.files import locked, write_whole
from registry.trust import Purpose, TrustedKey, TrustRoot, utc_now
from registry.trust_file import add_trusted_key, change_trust, read_trust

TRUST_FILE = "trust.json"
ROLES: Mapping[str, Purpose] = {
    "builder": Purpose.BUILD,
    "validator": Purpose.VERDICT,
    "recorder": Purpose.REFERENCE,
    "approver": Purpose.WAIVER,
    "keeper": Purpose.SNAPSHOT,
    "revoker": Purpose.REVOCATION,
}
"""Who signs what; a role's name is that of its key file."""
_AUTOMATIC = (Purpose.BUILD, Purpose.VERDICT, Purpose.REFERENCE, Purpose.REVOCATION)
"""What building and stopping need. Who may override the gate is for a person to say."""
_ROLE_OF = {purpose: role for role, purpose in ROLES.items()}


def role_of(purpose: Purpose) -> str:
    """Returns the name of who signs for a purpose."""
    return _ROLE_OF[purpose]


def open_signer(directory: Path, purpose: Purpose, *, simulated: bool = False) -> Signer:
    """Returns the signer of a role from a directory of keys, which is made if there is none.

    The key of a role for what is simulated is made when it is first asked for, too: it counts for
    nothing real.

    Raises RecordNotFoundError when the directory lacks the role's key, IntegrityError when its
    trust file does not list it: what it signs would count for nothing.
    """
    if not _holds_keys(directory):
        _make_keys(directory)
    path = key_path(directory, purpose, simulated=simulated)
    role = _ROLE_OF[purpose]
    if simulated and purpose in _AUTOMATIC and not path.exists():
        _make_simulated_key(directory, purpose)
    if not path.exists():
        named = _as_option(role, TrustRoot.of(simulated=simulated))
        raise RecordNotFoundError(
            f"there is no {role}'s key here, and none is made by the way",
            where=str(path),
            remedy=f"enginekeeper key create {named}, then enginekeeper key trust {named}",
        )
    signer = load_signer(path)
    _require_trusted(directory / TRUST_FILE, trusted(signer, purpose, simulated=simulated), role)
    return signer


def rotate_key(
    directory: Path, purpose: Purpose, until: datetime, *, simulated: bool = False
) -> tuple[TrustedKey, TrustedKey]:
    """Gives a role a new key, trusted at once; returns the old key and the new one.

    The old key counts for what it signed until the given time; its private half is gone. Run
    again after an interruption, it goes on with the key that was made.
    """
    path = key_path(directory, purpose, simulated=simulated)
    following = path.with_suffix(".next.pem")
    old = trusted(load_signer(path), purpose, simulated=simulated)
    with locked(directory / "keys.lock"):
        if not following.exists():
            _write_key(following, CryptoSigner.generate_ed25519())
        new = trusted(load_signer(following), purpose, simulated=simulated)
        change_trust(
            directory / TRUST_FILE,
            lambda trust: trust.with_key(new).ending({old.keyid}, until),
        )
        following.replace(path)
    return old, new


def create_key(directory: Path, purpose: Purpose, *, simulated: bool = False) -> TrustedKey:
    """Makes the private key of a role and returns its public half, which nobody trusts yet.

    Raises ConflictError when there is one: what it signed would no longer be its owner's.
    """
    path = key_path(directory, purpose, simulated=simulated)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    signer = CryptoSigner.generate_ed25519()
    with locked(directory / "keys.lock"):
        if path.exists():
            raise ConflictError(
                "there is a key already, and a key is never overwritten",
                where=str(path),
                remedy="move the file away first, if the key is not to be used any more",
            )
        _write_key(path, signer)
    return trusted(signer, purpose, simulated=simulated)


def key_path(directory: Path, purpose: Purpose, *, simulated: bool = False) -> Path:
    """Returns where the private key of a role lies."""
    return directory / f"{'simulated-' if simulated else ''}{_ROLE_OF[purpose]}.pem"


def load_signer(path: Path) -> CryptoSigner:
    """Reads a private key (PEM, PKCS #8, no passphrase); refuses one that others may read."""
    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise RecordNotFoundError(
            f"the private key cannot be read: {error.strerror}", where=str(path)
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidRecordError(
            "others may read or write the private key",
            where=str(path),
            actual=stat.filemode(mode),
            expected="-rw-------",
            remedy=f"chmod 600 {path}, and make a new key if somebody may have read it",
        )
    try:
        signer = CryptoSigner(load_pem_private_key(data, None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRecordError(f"not a private key: {error}", where=str(path)) from error
    # One definition of a key's id, the trust file's, whatever the library would choose.
    signer.public_key.keyid = trusted(signer, Purpose.BUILD).keyid
    return signer


def trusted(signer: Signer, purpose: Purpose, *, simulated: bool = False) -> TrustedKey:
    """Returns the trust file's entry for a signer's public key."""
    public = signer.public_key
    if not isinstance(public, SSlibKey):
        raise InvalidRecordError("not a key a trust file can hold", actual=type(public).__name__)
    return TrustedKey(
        public.keytype,
        public.scheme,
        public.keyval["public"],
        frozenset({purpose}),
        TrustRoot.of(simulated=simulated),
    )


def _make_keys(directory: Path) -> None:
    """Makes a directory with a key for every real role and trusts them, whole or not at all."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with locked(directory.with_name(f".{directory.name}.lock")):
            if not _holds_keys(directory):  # else another process was first: its keys count
                _fill(directory)
    except OSError as error:
        if is_full(error):
            raise disk_full(error, directory) from error
        raise StoreUnavailableError(
            f"no keys can be made: {error.strerror}",
            where=str(directory),
            remedy="set ENGINEKEEPER_HOME to a directory you may write to",
        ) from error


def _make_simulated_key(directory: Path, purpose: Purpose) -> None:
    """Makes and trusts the key of a role for simulated artifacts, where there never was one.

    Who is killed in between leaves the key beside its place, and the next one goes on with it.
    """
    path = key_path(directory, purpose, simulated=True)
    following = path.with_suffix(".next.pem")
    with locked(directory / "keys.lock"):
        trust = directory / TRUST_FILE
        known = read_trust(trust).keys_for(purpose, TrustRoot.SIMULATED) if trust.exists() else []
        if path.exists() or (known and not following.exists()):
            return  # what was trusted once and taken away is not replaced by the way
        if not following.exists():
            _write_key(following, CryptoSigner.generate_ed25519())
        add_trusted_key(trust, trusted(load_signer(following), purpose, simulated=True))
        following.replace(path)


def _holds_keys(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def _fill(directory: Path) -> None:
    draft = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)  # who was killed leaves one, and nothing used it
    try:
        draft.mkdir(mode=0o700)
        for purpose in _AUTOMATIC:
            key = create_key(draft, purpose)
            add_trusted_key(draft / TRUST_FILE, key)
        draft.rename(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_trusted(path: Path, key: TrustedKey, role: str) -> None:
    trust = read_trust(path)
    doubt, named = trust.doubt(key.keyid, key.root, utc_now()), _as_option(role, key.root)
    for purpose in key.purposes:
        listed = key.keyid in {one.keyid for one in trust.keys_for(purpose, key.root)}
        if listed and doubt is None:
            continue
        raise IntegrityError(
            f"the {role}'s key is not trusted here: what it signs would count for nothing",
            where=str(path),
            actual=f"key {key.keyid[:12]} trusted for "
            f"{', '.join(trust.purposes_of([key.keyid])) or 'nothing'}"
            f"{f', {doubt}' if doubt and trust.purposes_of([key.keyid]) else ''}",
            expected=f"{purpose} ({key.root})",
            remedy=f"enginekeeper key rotate {named}"
            if doubt and trust.purposes_of([key.keyid])
            else f"enginekeeper key trust {named}, unless its entry was taken out on purpose",
        )


def _as_option(role: str, root: TrustRoot) -> str:
    """Returns how a command is told which key of a role is meant."""
    return f"{role} --simulated" if root is TrustRoot.SIMULATED else role


def _write_key(path: Path, signer: CryptoSigner) -> None:
    write_whole(path, signer.private_bytes, mode=0o600)
