"""Signers by the address of their key: a file, a KMS, a PKCS #11 token.

    file:/etc/enginekeeper/builder.pem        a file of one's own, as `registry.signing` reads it
    awskms:alias/ek-builder                   whatever securesystemslib has a signer for:
    hsm:…, gcpkms:…, azurekms:…, hv:…         its own words, with its own libraries
    awskms:alias/ek-builder#3f1c              with the start of the key's id, where several fit
    sigstore:                                 keyless, as the workload's identity (CI, GCP)
    sigstore:?ambient=false                   keyless, as whoever logs in by a browser

Rules:

- the public half comes from the trust file: what signs here is trusted here, or it is refused;
- whatever signed, the signature is verified with that public key before anybody sees it: a
  wrong alias or a key that was exchanged in the KMS is noticed here and not on the fleet.
"""

from __future__ import annotations

import importlib
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.exceptions import UnsupportedLibraryError, UnverifiedSignatureError
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    Key,
    SecretsHandler,
    Signature,
    Signer,
    SigstoreSigner,
    SSlibKey,
)

from registry.errors import (
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from registry.keyless import KEYTYPE
from registry.signing import load_signer
from registry.trust import Purpose, Trust, TrustedKey, TrustRoot

_FILES = ("file", "file2")
_FAILURES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "awskms": ("botocore.exceptions", ("BotoCoreError", "ClientError")),
    "gcpkms": ("google.api_core.exceptions", ("GoogleAPIError",)),
    "azurekms": ("azure.core.exceptions", ("AzureError",)),
    "hsm": ("pkcs11.exceptions", ("PKCS11Error",)),
    "sigstore": ("sigstore.errors", ("Error",)),
}
"""What the libraries of remote signers raise, by the scheme of their addresses."""


class RemoteSigner(Signer):
    """A signer whose every signature is verified, and whose failures are the registry's."""

    def __init__(self, uri: str, inner: Signer) -> None:
        self._uri = uri
        self._inner = inner

    @property
    def public_key(self) -> Key:
        """The public half, from the trust file."""
        return self._inner.public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> RemoteSigner:
        """Opens the signer that securesystemslib has for an address."""
        opened = SigstoreSigner if _scheme(priv_key_uri) == SigstoreSigner.SCHEME else Signer
        with _translated(priv_key_uri):
            inner = opened.from_priv_key_uri(priv_key_uri, public_key, secrets_handler)
        return cls(priv_key_uri, inner)

    def sign(self, payload: bytes) -> Signature:
        """Signs, and raises IntegrityError unless the trusted public key verifies it."""
        with _translated(self._uri):
            signature = self._inner.sign(payload)
        try:
            self.public_key.verify_signature(signature, payload)
        except UnverifiedSignatureError as error:
            raise IntegrityError(
                "what signed is not the key that the trust file lists",
                where=self._uri,
                expected=f"key {self.public_key.keyid[:12]}",
                remedy="correct the address, or trust the key that is there: enginekeeper key trust"
                " ROLE --public FILE",
            ) from error
        return signature


def signer_at(
    uri: str, trust: Trust, purpose: Purpose, *, simulated: bool = False,
    secrets: SecretsHandler | None = None,
) -> Signer:  # fmt: skip
    """Returns the signer at an address, whose key is trusted for a purpose now.

    `secrets` is asked for the PIN of a token.

    Raises InvalidRecordError for an address nothing here can read, IntegrityError for a key that
    is not trusted, StoreUnavailableError when what holds the key does not answer.
    """
    root = TrustRoot.of(simulated=simulated)
    address, _, start = uri.partition("#")
    scheme, colon, rest = address.partition(":")
    known = {*_FILES, *SIGNER_FOR_URI_SCHEME, SigstoreSigner.SCHEME}
    if not colon or scheme not in known:
        raise InvalidRecordError(
            "not the address of a key",
            actual=uri,
            expected=f"one of {', '.join(sorted(known))}: and a key",
        )
    usable = [
        key
        for key in trust.keys
        if purpose in key.purposes
        and key.root is root
        and trust.doubt(key.keyid, root, trust.clock()) is None
    ]
    if scheme in _FILES:
        signer = load_signer(Path(rest.removeprefix("//")))
        start = signer.public_key.keyid
        _only(usable, start, uri, purpose)
        return signer
    keyless = scheme == SigstoreSigner.SCHEME
    usable = [key for key in usable if (key.keytype == KEYTYPE) is keyless]
    key = _only(usable, start, uri, purpose).as_sslib()
    return RemoteSigner.from_priv_key_uri(address, key, secrets)


def pin_in(path: Path) -> SecretsHandler:
    """Returns what answers with the PIN in a file, read when it is asked for and not kept."""

    def answer(secret: str) -> str:
        try:
            mode, text = path.stat().st_mode, path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordNotFoundError(f"the {secret} cannot be read", where=str(path)) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InvalidRecordError(
                f"others may read or write the {secret}",
                where=str(path), actual=stat.filemode(mode), expected="-rw-------",
                remedy=f"chmod 600 {path}",
            )  # fmt: skip
        return text.strip()

    return answer


def public_key_in(path: Path, purpose: Purpose, *, simulated: bool = False) -> TrustedKey:
    """Reads a public key (PEM), as a KMS gives it out, for the trust file."""
    try:
        key = SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except OSError as error:
        raise RecordNotFoundError(
            f"the public key cannot be read: {error.strerror}", where=str(path)
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRecordError(f"not a public key: {error}", where=str(path)) from error
    root = TrustRoot.of(simulated=simulated)
    public = key.keyval["public"]
    return TrustedKey(key.keytype, key.scheme, public, frozenset({purpose}), root)


def _only(usable: list[TrustedKey], start: str, uri: str, purpose: Purpose) -> TrustedKey:
    """Returns the one trusted key that an address can mean."""
    found = [key for key in usable if key.keyid.startswith(start)]
    if len(found) == 1:
        return found[0]
    raise IntegrityError(
        "it is not told which key is there" if found else "no trusted key fits the address",
        where=uri,
        actual=", ".join(key.keyid[:12] for key in found or usable) or "no key trusted for this",
        expected=f"one key that is trusted for {purpose} now",
        remedy="add `#` and the start of its id to the address"
        if found
        else "enginekeeper key trust ROLE --public FILE",
    )


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turns what a signer's library raises into what the registry raises."""
    # RuntimeError: what the keyless signer says where there is no identity to sign as
    other = (RuntimeError,) if _scheme(uri) == SigstoreSigner.SCHEME else ()
    unanswered: tuple[type[Exception], ...] = (OSError, *other, *_failures(_scheme(uri)))
    try:
        yield
    except UnsupportedLibraryError as error:
        raise StoreUnavailableError(
            f"the library that reaches the key is not installed: {error}", where=uri
        ) from error
    except unanswered as error:
        raise StoreUnavailableError(
            f"what holds the key does not sign: {error}",
            where=uri,
            remedy="check that it answers, and that this process may sign with the key",
        ) from error
    except (ValueError, KeyError) as error:
        raise InvalidRecordError(f"the key cannot be used: {error}", where=uri) from error


def _scheme(uri: str) -> str:
    return uri.partition(":")[0]


def _failures(scheme: str) -> tuple[type[Exception], ...]:
    module, names = _FAILURES.get(scheme, ("", ()))
    try:
        return tuple(getattr(importlib.import_module(module), name) for name in names)
    except ModuleNotFoundError:
        return ()  # then nothing of it can have been raised
