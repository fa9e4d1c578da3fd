#!/usr/bin/env python3
"""A llama-server double: takes its flags and its key, answers /health, /v1/models and completions. A test double."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def flag(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer({"data": [{"id": name} for name in flag("--alias").split(",")]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = os.environ.get("LLAMA_API_KEY")
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            return self.send_error(401)
        return self.answer({"choices": [{"text": "double"}]})

    def answer(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    sys.stdout.write(f"serving {flag('--model')}\n")
    ThreadingHTTPServer((flag("--host"), int(flag("--port"))), Handler).serve_forever()
