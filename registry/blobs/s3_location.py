"""Addresses on S3: `s3://bucket/prefix?endpoint_url=…&region=…&checksums=…`; imports no boto3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from registry.errors import InvalidRecordError
from registry.names import check_path

_OPTIONS = frozenset({"endpoint_url", "region", "checksums"})
_CHECKSUMS = ("supported", "required")


@dataclass(frozen=True)
class S3Location:
    """A prefix of a bucket; credentials come from boto3's own chain, never from here."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    """The server; by default what AWS_ENDPOINT_URL names, else AWS."""

    region: str | None = None
    checksums: Literal["supported", "required"] | None = None
    """When transport checksums are sent; by default `supported` on AWS, `required` elsewhere."""

    @classmethod
    def from_url(cls, url: str) -> S3Location:
        """Reads an address; raises InvalidRecordError for one that is no such address."""
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise InvalidRecordError("not an address on S3", actual=url, expected="s3://bucket/…")
        if parts.username or parts.password or "@" in parts.netloc:
            raise InvalidRecordError(
                "credentials do not belong into the address",
                where=f"s3://{parts.hostname}",
                remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile",
            )
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        checksums = options.get("checksums")
        if set(options) - _OPTIONS or checksums not in (None, *_CHECKSUMS):
            raise InvalidRecordError(
                "an unknown option in the address",
                where=url,
                actual=options,
                expected=f"{', '.join(sorted(_OPTIONS))}; checksums is one of {_CHECKSUMS}",
            )
        return cls(
            bucket=parts.netloc,
            prefix=unquote(parts.path).strip("/"),
            endpoint_url=options.get("endpoint_url"),
            region=options.get("region"),
            checksums=checksums,  # type: ignore[arg-type]  # narrowed by the check above
        )

    @property
    def root(self) -> str:
        """What every key below the prefix starts with: empty, or a path that ends in a slash."""
        prefix = self.prefix.strip("/")
        return f"{check_path(prefix, where='S3 prefix')}/" if prefix else ""

    @property
    def url(self) -> str:
        """The address without options."""
        return f"s3://{self.bucket}/{self.root}".rstrip("/")
