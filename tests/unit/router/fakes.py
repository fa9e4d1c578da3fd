"""A fake engine: an HTTP server on loopback that tells what reached it, and misbehaves when it is told to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeEngine:
    """Answers POST with {"engine", "path", "model", "headers"}, or as a stream of `chunks` events when asked to stream.

    `status`: answers every POST so instead. `stop` cuts all connections, as a killed process does; `start` comes back
    on the same port.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.hold = (
            threading.Event()
        )  # cleared: requests wait here before they are answered, streams after their first event
        self.hold.set()
        self.received = 0
        self.open: set[socket.socket] = set()
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = _Server(("127.0.0.1", self.port), self)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.thread.join()

    def calm(self) -> None:
        self.status, self.received = 200, 0
        self.hold.set()


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def __init__(self, address: tuple[str, int], engine: FakeEngine) -> None:
        super().__init__(address, _Handler)
        self.engine = engine

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.engine.open.add(self.connection)

    def finish(self) -> None:
        self.server.engine.open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        if self.path == "/health":
            self._json(200, {"status": "ok"})
        else:
            self._json(404, {"error": self.path.strip("/")})

    def do_POST(self) -> None:
        engine, raw = self.server.engine, self._body()
        engine.received += 1
        if engine.status != 200:
            self._json(engine.status, {"error": {"message": f"{engine.name} is full", "code": engine.status}})
            return
        body = parsed(raw)
        if body.get("stream"):
            self._stream(int(body.get("chunks", 5)), float(body.get("pause", 0)))
            return
        engine.hold.wait(20)
        ours = {k: v for k, v in self.headers.items() if k.startswith(("x-llmfleet-", "x-fleet-"))}
        keys = [k for k in self.headers if k.lower() in ("authorization", "x-api-key")]
        told = {"engine": engine.name, "path": self.path, "model": body.get("model")}
        self._json(200, {**told, "headers": ours, "credentials": keys})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, chunks: int, pause_s: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n in range(chunks):
            self._chunk(b'data: {"n": %d}\n\n' % n)
            self.server.engine.hold.wait(20)
            time.sleep(pause_s)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def parsed(raw: bytes) -> dict[str, Any]:
    """The JSON object, or nothing: the router lets through what is broken only deep inside."""
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
