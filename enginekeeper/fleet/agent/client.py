"""Speaks to the fleet's server: one connection, short patience, no secret in any message.

Rules:

- the token goes to the server that was named and nowhere else: no redirect is followed, and no
  proxy of the environment is asked;
- an answer is read up to its limit and parsed strictly;
- what may pass by itself (no answer, 429, 5xx) is UnavailableError; what a person must look at
  (401, 403, 409, 413, 422) is RefusedError.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import urllib3

from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.http_get import check_url
from enginekeeper.fleet.wire import (
    DESIRED_PATH,
    HEARTBEAT_PATH,
    INVENTORY_PATH,
    MAX_INVENTORY_BYTES,
    Desired,
    Heartbeat,
    HeartbeatAnswer,
    InventoryAnswer,
    InventoryMessage,
    parse_desired,
    parse_heartbeat_answer,
    parse_inventory_answer,
    parse_problem,
)

_Answer = TypeVar("_Answer")
_OK, _TOO_MANY, _SERVERS_FAULT = 200, 429, 500
_PATIENCE = urllib3.Timeout(connect=5.0, read=20.0)
_TOKEN_BYTES = 1024
_LONGEST_WAIT = 3600.0  # seconds: what a server may ask for


class RefusedError(InputError):
    """The server understood and refused; trying again alone does not help."""

    status: int = 0


class BusyError(UnavailableError):
    """The server asks to be left alone for a while."""

    seconds: float = 0.0


@dataclass(frozen=True)
class FleetClient:
    """One server, and the file with the token that this node has there."""

    url: str
    token_file: Path
    authorities: Path | None = None
    """File of the certificate authorities that are trusted, if not the system's."""
    plain_http: bool = False
    """The token may cross the network in the clear."""
    _pool: urllib3.PoolManager = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_address(self.url, plain_http=self.plain_http)
        pool = urllib3.PoolManager(
            num_pools=1, maxsize=1, retries=False, timeout=_PATIENCE,
            ca_certs=None if self.authorities is None else str(self.authorities),
        )  # fmt: skip
        object.__setattr__(self, "_pool", pool)

    def heartbeat(self, message: Heartbeat) -> HeartbeatAnswer:
        """Says that the node lives; raises UnavailableError or RefusedError."""
        return self._asked("POST", HEARTBEAT_PATH, message.to_bytes(), parse_heartbeat_answer)

    def put_inventory(self, message: InventoryMessage) -> InventoryAnswer:
        """Sends the whole inventory; raises UnavailableError or RefusedError."""
        return self._asked("PUT", INVENTORY_PATH, message.to_bytes(), parse_inventory_answer)

    def desired(self) -> Desired:
        """Returns what should run on the node; raises UnavailableError or RefusedError."""
        return self._asked("GET", DESIRED_PATH, None, parse_desired)

    def _asked(
        self, method: str, path: str, body: bytes | None, parse: Callable[[bytes, str], _Answer]
    ) -> _Answer:
        address = f"{self.url.rstrip('/')}{path}"
        headers = {"Authorization": f"Bearer {read_token(self.token_file)}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = self._pool.request(
                method, address, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                data = response.read(MAX_INVENTORY_BYTES + 1)
            finally:
                response.close()  # one connection a minute: none is held open for the next
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(
                f"the server does not answer: {_reason(error)}", where=address, transient=True,
                remedy="nothing is lost: the agent tries again; see whether the server runs",
            ) from error  # fmt: skip
        if response.status != _OK:
            _refuse(response.status, response.headers.get("Retry-After"), data, address)
        try:
            return parse(data, address)
        except InputError as error:
            raise UnavailableError(
                f"the server's answer is not understood: {error.what}", where=error.where,
                actual=error.actual, expected=error.expected,
                remedy="see whether server and agent are of versions that know each other",
            ) from error  # fmt: skip


def read_token(file: Path) -> str:
    """Returns the token in a file; raises InputError where others may read it, or for none.

    What systemd gives a service (LoadCredential=) shows its group as a reader: since 254 the mask
    of the access list that names the service's user stands there, and no group is let in.
    """
    try:
        with file.open("rb") as handle:
            mode = stat.S_IMODE(os.fstat(handle.fileno()).st_mode)
            data = handle.read(_TOKEN_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"the token cannot be read: {error.strerror}", where=str(file),
            remedy="enginekeeper node enroll NAME, on the server, prints one",
        ) from error  # fmt: skip
    given = os.environ.get("CREDENTIALS_DIRECTORY") == str(file.parent)
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~(stat.S_IRGRP if given else 0):
        raise InputError(
            "others on this node may read the token", where=str(file), actual=f"{mode:04o}",
            expected="0600", remedy=f"chmod 600 {file}",
        )  # fmt: skip
    token = data.strip()
    if not token or len(data) > _TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):  # noqa: PLR2004 - printable ASCII
        raise InputError(
            "not a token", where=str(file), actual=f"{len(data)} bytes",
            expected="what `node enroll` printed, alone in the file",
        )  # fmt: skip
    return token.decode()


def _check_address(url: str, *, plain_http: bool) -> None:
    parts = urlsplit(check_url(url, "--server"))
    if parts.query or parts.fragment:
        raise InputError(
            "not the address of a server", where="--server", actual=url[:200],
            expected="https://HOST[:PORT]",
        )  # fmt: skip
    if parts.scheme == "http" and not plain_http and not _is_here(str(parts.hostname)):
        raise InputError(
            "the token would cross the network in the clear", where="--server", actual=url[:200],
            expected="https://…", remedy="--plain-http, where the network is trusted",
        )  # fmt: skip


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse(status: int, retry_after: str | None, body: bytes, address: str) -> NoReturn:
    try:
        problem = parse_problem(body, address)
        what, rest = problem.what, (problem.where, problem.actual, problem.expected, problem.remedy)
    except InputError:
        what, rest = "the server gave no reason", (None, None, None, None)
    where, actual, expected, remedy = rest
    kind = RefusedError if status < _SERVERS_FAULT and status != _TOO_MANY else BusyError
    error = kind(
        f"the server refused ({status}): {what}", where=where or address, actual=actual,
        expected=expected, remedy=remedy,
    )  # fmt: skip
    if isinstance(error, RefusedError):
        error.status = status
    elif retry_after is not None and retry_after.isdecimal():
        error.seconds = min(float(retry_after), _LONGEST_WAIT)
    raise error


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    """Returns what went wrong without the object it happened to."""
    return str(error).rpartition(">: ")[2] or str(error) or type(error).__name__
