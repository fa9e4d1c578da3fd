"""A model hub on the loopback address: the part of Hugging Face's and ModelScope's API that fetching weights needs.

A test double. It can be told to cut connections in the middle of a file and to send damaged bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub:
    def __init__(self, files: Mapping[str, bytes], token: str = "") -> None:
        self.files, self.token = dict(files), token
        self.cut_after: int | None = None  # bytes of each answer, then the connection is reset
        self.cuts = 0  # how many answers are cut yet
        self.damage: set[str] = set()  # names whose bytes are sent wrong
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        parts = urlsplit(request.path)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return request.send_error(401)
        if parts.path == "/api/models/org/name/revision/main":
            return self._json(request, {"sha": COMMIT, "siblings": [self._hf(n, b) for n, b in self.files.items()]})
        if parts.path == f"/api/models/org/name/revision/{COMMIT}":
            return self._json(request, {"sha": COMMIT, "siblings": [self._hf(n, b) for n, b in self.files.items()]})
        if parts.path == "/api/v1/models/org/name/repo/files":
            files = [self._modelscope(n, b) for n, b in self.files.items()]
            return self._json(request, {"Code": 200, "Data": {"Files": [{"Path": "d", "Type": "tree"}, *files]}})
        if parts.path == "/api/v1/models/org/name/repo":
            query = parse_qs(parts.query)
            assert query["Revision"] == [COMMIT]
            return self._file(request, query["FilePath"][0])
        found = re.fullmatch(rf"/org/name/resolve/{COMMIT}/(.+)", parts.path)
        return self._file(request, unquote(found[1])) if found else request.send_error(404)

    def _hf(self, name: str, body: bytes) -> dict[str, Any]:
        lfs = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)} if name.endswith(".safetensors") else None
        return {"rfilename": name, "size": len(body), **({"lfs": lfs} if lfs else {})}

    def _modelscope(self, name: str, body: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(body).hexdigest()
        old = {"CommittedDate": 1, "Revision": "0" * 40}
        new = {"CommittedDate": 2, "Revision": COMMIT}
        return {"Path": name, "Type": "blob", "Size": len(body), "Sha256": digest, **(new if "model" in name else old)}

    def _json(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        self._send(request, json.dumps(body).encode(), 200)

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        body = self.files[name]
        if name in self.damage:
            body = b"\xff" + body[1:]
        begin = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        self._send(request, body[begin:], 206 if begin else 200, cut=self.cuts > 0)

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, status: int, *, cut: bool = False) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if cut and self.cut_after is not None and len(body) > self.cut_after:
            self.cuts -= 1
            body = body[: self.cut_after]
        request.wfile.write(body)
        request.close_connection = True
