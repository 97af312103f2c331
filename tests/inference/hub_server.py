"""A model hub small enough for a test: one repository over real HTTP, with the headers that the hub's client reads."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"
BLOCK_BYTES = 16 * 1024


class Hub(ThreadingHTTPServer):
    """Serves the files of `folder` as the repository org/tiny at main and at COMMIT. `seen` has what was asked."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.seen: list[tuple[str, str, str]] = []  # method, path, Range
        self.block_delay_s = 0.0
        self.wrong_hash = False
        self.gated = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listing(self) -> dict[str, object]:
        return {"id": "org/tiny", "sha": COMMIT, "siblings": [self._sibling(f) for f in self.folder.rglob("*.*")]}

    def tree(self) -> list[dict[str, object]]:
        """The same files as the client asks for them before it downloads."""
        files = []
        for file in self.folder.rglob("*.*"):
            sibling = self._sibling(file)
            oid = hashlib.sha1(file.read_bytes()).hexdigest()
            files.append({"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": oid})
            if isinstance(lfs := sibling.get("lfs"), dict):
                files[-1]["lfs"] = lfs | {"oid": lfs["sha256"]}
        return files

    def _sibling(self, file: Path) -> dict[str, object]:
        content = file.read_bytes()
        sibling: dict[str, object] = {"rfilename": str(file.relative_to(self.folder)), "size": len(content)}
        if file.suffix == LARGE:
            digest = "0" * 64 if self.wrong_hash else hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        return sibling


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = urlsplit(self.path).path
        self.server.seen.append((self.command, path, self.headers.get("Range", "")))
        if not path.startswith(("/api/models/org/tiny/", "/org/tiny/")):
            self._refuse(404, "RepoNotFound")
        elif self.server.gated:
            self._refuse(403, "GatedRepo")
        elif path in ("/api/models/org/tiny/revision/main", f"/api/models/org/tiny/revision/{COMMIT}"):
            self._send(json.dumps(self.server.listing()).encode(), with_body=with_body)
        elif path == f"/api/models/org/tiny/tree/{COMMIT}":
            self._send(json.dumps(self.server.tree()).encode(), with_body=with_body)
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            file = self.server.folder / path.split("/", 5)[5]
            self._send(file.read_bytes(), with_body=with_body, etag=hashlib.sha256(file.read_bytes()).hexdigest())
        else:
            self._refuse(404, "RevisionNotFound")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, *, with_body: bool, etag: str | None = None) -> None:
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if etag:
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if with_body:
            for place in range(begin, len(content), BLOCK_BYTES):
                try:
                    self.wfile.write(content[place : place + BLOCK_BYTES])
                except ConnectionError:  # a test killed the client
                    return
                time.sleep(self.server.block_delay_s)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test reads `seen`."""


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
