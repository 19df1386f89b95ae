"""HTTP/1.1 parsed in C, with the limit on heads that uvicorn's Python parser has and this has not.

uvicorn's own class takes a head of any length into memory, and a trailer behind a body. Here what
of a message is not its body is counted as it comes, and refused beyond 64 KiB, as h11 refuses it.
"""

from __future__ import annotations

import logging

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LOG = logging.getLogger(__name__)
_MOST = 64 * 1024
"""Bytes of head, trailers and the frames of a body in pieces; uvicorn's limit for h11."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    The read in which a message begins is not counted, so that two reads beyond the limit are held.
    """

    _beside = 0
    """Bytes of the message at hand that are not of its body."""
    _begins = False
    """Whether a message begins in what is being read."""
    _body = 0
    """Bytes of its body in what is being read."""

    def data_received(self, data: bytes) -> None:
        """Takes what came; ends the connection where it is too much."""
        self._begins, self._body = False, 0
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._beside = 0 if self._begins else self._beside + len(data) - self._body
        if self._beside > _MOST:
            _LOG.warning("refused: a head of more than %d bytes, from %s", _MOST, self.client)
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        """Begins to count anew."""
        self._begins = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Takes a piece of a body, which has a limit of its own."""
        self._body += len(body)
        super().on_body(body)
