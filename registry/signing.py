"""Private keys in files: the embedded default, one for each role.

A key file is made with mode 0600 and never overwritten; one that others may read is refused.
A process is given the signer of its own role, so that the step that builds cannot sign a verdict.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from registry.errors import InvalidRecordError, RecordNotFoundError
from registry.trust import Purpose, TrustedKey, TrustRoot, add_trusted_key, locked

TRUST_FILE = "trust.json"
_ROLE = {
    Purpose.BUILD: "builder",
    Purpose.VERDICT: "validator",
    Purpose.REFERENCE: "recorder",
}


def open_signer(directory: Path, purpose: Purpose, *, simulated: bool = False) -> Signer:
    """Returns the signer of a role from a directory of keys; makes it on first use.

    A key made here is added to the directory's trust file. A key that was removed from the
    trust file stays removed: its signatures are refused until somebody puts it back.
    """
    path = key_path(directory, purpose, simulated=simulated)
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(directory / "keys.lock"):
            if not path.exists():
                made = CryptoSigner.generate_ed25519()
                # Trust first: a crash in between leaves a public key that nobody can use, and
                # not a private key that nobody trusts.
                key = trusted(made, purpose, simulated=simulated)
                add_trusted_key(directory / TRUST_FILE, key)
                _write_key(path, made)
    return load_signer(path)


def key_path(directory: Path, purpose: Purpose, *, simulated: bool = False) -> Path:
    """Returns where the private key of a role lies."""
    return directory / f"{'simulated-' if simulated else ''}{_ROLE[purpose]}.pem"


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


def _write_key(path: Path, signer: CryptoSigner) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as handle:  # noqa: PTH123 - the mode is given when it is created
        handle.write(signer.private_bytes)
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(path)
