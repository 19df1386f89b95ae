"""Finds out what an S3 server really supports, by trying: some say 200 and do nothing of it.

What it writes lies below `probe/`, is the same every time, and stays: two small objects, so that
probing needs no right to delete and never leaves more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial

from botocore.exceptions import ClientError

from registry.blobs.interface import PROBE_ROOT, Feature
from registry.blobs.s3_client import TAKEN, S3Object, again, error_code, translated
from registry.blobs.s3_unfinished import finished_parts, unfinished_uploads
from registry.blobs.s3_upload import Sender, crc32

_DATA = b"written by Enginekeeper's probe of this store\n"
_ANOTHER = '"0123456789abcdef0123456789abcdef"'  # an ETag that no object has
_MISMATCH = frozenset({"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"})
_UNKNOWN = frozenset(
    {"NotImplemented", "501", "MethodNotAllowed", "405", "InvalidArgument", "InvalidRequest"}
)
"""What a server answers, or a policy, to what is not to be had there."""


@dataclass(frozen=True)
class Capabilities:
    """What a server was seen to do."""

    create_once: bool
    """A PUT with `If-None-Match: *` over an object is refused."""
    complete_once: bool
    """So is the completion of a multipart upload."""
    swap: bool
    """A PUT with `If-Match` is refused over another version, and done over that one."""
    checksums: bool
    """A PUT whose CRC-32 is not that of its bytes is refused."""
    ranges: bool
    """A range of an object can be had."""
    resume: bool
    """Unfinished uploads and their parts are listed."""
    ordered: bool
    """Keys are listed in the order of their bytes."""

    def features(self) -> tuple[Feature, ...]:
        """Returns the same for a person to read, with what happens where it is missing."""
        return tuple(
            Feature(name, getattr(self, attribute), attribute == "create_once", otherwise)
            for attribute, (name, otherwise) in _FEATURES.items()
        )


_FEATURES = {
    "create_once": (
        "If-None-Match on PUT",
        "of two who write one document both would be told they did",
    ),
    "complete_once": (
        "If-None-Match on CompleteMultipartUpload",
        "two who upload the same large blob at once both write it, with the same verified bytes",
    ),
    "swap": ("If-Match on PUT", "documents that move cannot be kept here"),
    "checksums": (
        "CRC-32 of uploads",
        "uploads carry none; what they became is verified on the way out only",
    ),
    "ranges": ("ranged GET", "nothing can be fetched"),
    "resume": (
        "ListMultipartUploads and ListParts",
        "an interrupted upload begins anew, and what it left is not swept",
    ),
    "ordered": ("listing in byte order", "listings are sorted here"),
}

_known: dict[tuple[str, str], Capabilities] = {}
_probing = threading.Lock()


def capabilities(root: S3Object) -> Capabilities:
    """Returns what the server of a bucket supports; tries it once per process.

    The root's key is the prefix that the probe may write below. Raises StoreUnavailableError
    when the server does not answer, or does not let us in.
    """
    name = (root.client.meta.endpoint_url, root.bucket)
    with _probing:
        if name not in _known:
            with translated(root.url):
                _known[name] = probe(root)
        return _known[name]


def probe(root: S3Object) -> Capabilities:
    """Tries what the server of a bucket supports, in 15 requests; raises ClientError."""
    target = replace(root, key=f"{root.key}{PROBE_ROOT}/a-b")
    put = partial(root.client.put_object, Body=_DATA, **target.at)
    create = partial(put, IfNoneMatch="*")
    _refuses(create, TAKEN)  # if it was not there before, it is now
    create_once = _refuses(create, TAKEN)
    checksums = _refuses(partial(put, **crc32(_DATA[1:])), _MISMATCH)
    complete_once, resume = _multipart(target, checksums=checksums)
    ranged = root.client.get_object(Range="bytes=1-2", **target.at)
    return Capabilities(
        create_once=create_once,
        complete_once=complete_once,
        swap=_refuses(partial(put, IfMatch=_ANOTHER), TAKEN) and _swaps(put, target),
        checksums=checksums,
        ranges=ranged["ContentLength"] == 2 and ranged["Body"].read() == _DATA[1:3],  # noqa: PLR2004
        resume=resume,
        ordered=_lists_in_order(root),
    )


def _multipart(target: S3Object, *, checksums: bool) -> tuple[bool, bool]:
    """Says whether an upload is completed once only, and whether it is listed while it lasts."""
    sender = Sender(checksums=checksums, create_once=True, resume=False)
    upload = sender.begin(target)
    part = upload.send((1, _DATA))
    try:
        listed = upload.id in {one.id for one in unfinished_uploads(target)}
        resume = listed and finished_parts(target, upload.id)[1]["Size"] == len(_DATA)
    except ClientError as error:
        if error_code(error) not in _UNKNOWN | {"AccessDenied"}:
            raise
        resume = False
    complete_once = _refuses(lambda: upload.complete([part], create_once=True), TAKEN)
    if complete_once:
        upload.abort()
    return complete_once, resume


def _swaps(put: Callable[..., object], target: S3Object) -> bool:
    """Says whether the present version may be replaced; another prober may do so meanwhile."""
    for _ in range(3):
        version = target.client.head_object(**target.at)["ETag"]
        if not _refuses(partial(put, IfMatch=version), TAKEN):
            return True
    return False


def _lists_in_order(root: S3Object) -> bool:
    folder = f"{root.key}{PROBE_ROOT}/"
    neighbour = replace(root, key=f"{folder}a/b")
    put = partial(root.client.put_object, Body=_DATA, IfNoneMatch="*", **neighbour.at)
    _refuses(put, TAKEN)
    listed = root.client.list_objects_v2(Bucket=root.bucket, Prefix=folder).get("Contents", [])
    keys = [one["Key"] for one in listed]
    return keys == sorted(keys)


def _refuses(action: Callable[[], object], codes: AbstractSet[str]) -> bool:
    """Says whether a server refuses with one of the codes what it ought to; a race is run again."""
    try:
        for attempt in again():
            with attempt:
                action()
    except ClientError as error:
        if error_code(error) in codes:
            return True
        if error_code(error) not in _UNKNOWN:
            raise
    return False
