"""A Hugging Face Hub of one repository, as its client asks it: the info, and files by name."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class _Hub(BaseHTTPRequestHandler):
    files: Mapping[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        """Answers with the info of the repository, or a file."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answers with what is known of a file."""
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _answer(self, *, body: bool) -> None:
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if self.path.startswith(f"/api/models/owner/model/tree/{COMMIT}"):
            data = json.dumps([_listed(file, held) for file, held in self.files.items()]).encode()
        elif self.path.startswith("/api/models/"):
            listed = [{"rfilename": file} for file in self.files]
            data = json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": listed}).encode()
        elif name in self.files:
            data = self.files[name]
            self.asked.append(name)
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _listed(name: str, data: bytes) -> dict[str, object]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return {"type": "file", "path": name, "size": len(data), "oid": git.hexdigest()}


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serves the files of `owner/model`; gives the address and the names that were asked for."""
    asked: list[str] = []
    handler = type("Hub", (_Hub,), {"files": files, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
