"""A double of llama-server: takes its command line, answers its addresses, and ends at once when it is told to.

A stream comes in slow pieces, so that whatever stops an engine too early is seen as a stream that was cut. Files beside
the one that --model names tell doubles how to misbehave: ADDRESS:PORT.silent, ADDRESS:PORT.dead.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECES, PIECE_S = 10, 0.05


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    running = total = 0
    mutex = threading.Lock()
    signs = Path()

    def told(self, how: str) -> bool:
        return (self.signs / f"{self.server_address[0]}:{self.server_address[1]}.{how}").exists()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        while self.server.told("silent"):
            time.sleep(0.05)
        if self.path == "/metrics":
            page = f"llamacpp:requests_processing {self.server.running}\nllamacpp:requests_deferred 0\n"
            self.answer(page + f"llamacpp:tokens_predicted_total {self.server.total}\nllamacpp:prompt_tokens_total 1\n")
        else:
            self.answer("{}", 200 if self.path == "/health" else 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.mutex:
            self.server.running += 1
        try:
            self.stream() if body.get("stream") else self.whole()
        finally:
            with self.server.mutex:
                self.server.running -= 1
                self.server.total += PIECES

    def whole(self) -> None:
        time.sleep(PIECES * PIECE_S)
        self.answer(json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": "once"}}]}))

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(PIECES):
            time.sleep(PIECE_S)
            end = "stop" if number == PIECES - 1 else None
            self.chunk("data: " + json.dumps({"choices": [{"delta": {"content": "x"}, "finish_reason": end}]}) + "\n\n")
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())
        self.wfile.flush()

    def answer(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    asked, _ = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = Server((asked.host, asked.port), Handler)
    server.signs = asked.model.parent
    sys.stdout.write("double begins\n")
    sys.stdout.flush()
    if server.told("dead"):
        raise SystemExit("error: this double was told to die")
    server.serve_forever()


if __name__ == "__main__":
    main()
