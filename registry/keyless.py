"""Keyless signatures: an identity that an issuer vouches for, in the place of a key (sigstore).

A signature is its sigstore bundle: the certificate that Fulcio gave the identity for ten minutes,
and the entry of the transparency log. It is verified by sigstore-python, here and offline: with the
trusted root that ships with it, or with that of a private instance, a file that the trust entry
names. Signing asks the issuer, Fulcio and the log, so it needs a network.

Needs the extra `sigstore`.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SigstoreKey

from registry.errors import InvalidRecordError, StoreUnavailableError

if TYPE_CHECKING:
    from sigstore.verify import Verifier

KEYTYPE, SCHEME = SigstoreKey.DEFAULT_KEY_TYPE, SigstoreKey.DEFAULT_SCHEME


class KeylessKey(SigstoreKey):
    """An identity and its issuer, by whom bundles are verified without a network."""

    def __init__(self, keyid: str, identity: str, issuer: str, trusted_root: str | None) -> None:
        super().__init__(keyid, KEYTYPE, SCHEME, {"identity": identity, "issuer": issuer})
        self._trusted_root = trusted_root

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Raises UnverifiedSignatureError unless the signature's bundle is this identity's of data.

        Raises StoreUnavailableError where the extra is not installed, InvalidRecordError for a
        trusted root that cannot be read: then nothing can be said of the signature.
        """
        verifier = verifier_of(self._trusted_root)
        from sigstore.errors import Error  # noqa: PLC0415
        from sigstore.models import Bundle  # noqa: PLC0415
        from sigstore.verify.policy import Identity  # noqa: PLC0415

        policy = Identity(identity=self.keyval["identity"], issuer=self.keyval["issuer"])
        try:
            bundle = Bundle.from_json(json.dumps(signature.unrecognized_fields["bundle"]))
            verifier.verify_artifact(data, bundle, policy)
        except (Error, ValueError, TypeError, KeyError) as error:
            raise UnverifiedSignatureError(f"not a signature of {self.keyid}: {error}") from error


def keyless_key(keyid: str, public: str, trusted_root: str | None) -> KeylessKey:
    """Returns the key that verifies what the trust file names by identity and issuer."""
    named = keyval(public)
    return KeylessKey(keyid, named["identity"], named["issuer"], trusted_root)


def keyval(public: str) -> dict[str, str]:
    """Returns identity and issuer of a key's public half; raises ValueError."""
    named = json.loads(public)
    if not isinstance(named, dict) or sorted(named) != ["identity", "issuer"]:
        raise ValueError("not an identity and an issuer")
    if not all(isinstance(one, str) and one.strip() for one in named.values()):
        raise ValueError("identity and issuer are text")
    return named


def verifier_of(trusted_root: str | None) -> Verifier:
    """Returns what verifies bundles by a trusted root; by the one that ships, if none is named."""
    try:  # an extra, and half a second of imports
        from sigstore.errors import Error  # noqa: PLC0415
        from sigstore.models import ClientTrustConfig, TrustedRoot  # noqa: PLC0415
        from sigstore.verify import Verifier  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise StoreUnavailableError(
            f"keyless signatures cannot be verified here: {error}",
            where="trust file",
            remedy="install the extra: pip install 'enginekeeper[sigstore]'",
        ) from error
    logging.getLogger("sigstore").setLevel(logging.ERROR)  # it warns of being offline, each time
    try:
        if trusted_root is None:
            root = ClientTrustConfig.production(offline=True).trusted_root
        else:
            root = TrustedRoot.from_file(trusted_root)
        return Verifier(trusted_root=root)
    except (Error, OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRecordError(
            f"the trusted root of keyless signatures cannot be read: {error}",
            where=trusted_root or "the one that ships with sigstore",
            expected="a trusted_root.json of sigstore",
            remedy="get it from whoever runs the instance, or take `trusted_root` out of the entry",
        ) from error
