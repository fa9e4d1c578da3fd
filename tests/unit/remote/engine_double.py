"""An engine double: answers /health, and misbehaves as its arguments say. Run as a script."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GRANDCHILD = "import signal, sys, time; sys.argv[1:] and signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    metrics = b""

    def do_GET(self) -> None:
        body = Handler.metrics if self.path == "/metrics" else b"ok"
        self.send_response(200 if self.path in ("/health", "/metrics") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--drain", type=float, default=0.0, help="seconds it works on after SIGTERM")
    parser.add_argument("--stubborn", action="store_true", help="it and its grandchild ignore SIGTERM")
    parser.add_argument("--silent", action="store_true", help="lives, but never answers")
    parser.add_argument("--grandchild", action="store_true", help="starts another process in a session of its own")
    parser.add_argument("--exit", type=int, help="says why and ends at once")
    parser.add_argument("--metrics", type=Path)
    return parser.parse_args()


def main() -> None:
    asked = parse()
    say(f"engine double {os.getpid()} {os.environ.get('GREETING', '')}")
    if asked.exit is not None:
        say("ValueError: no KV cache fits")
        say("(end of traceback)")
        sys.exit(asked.exit)
    if asked.grandchild:
        stubborn = ["stubborn"] if asked.stubborn else []
        subprocess.Popen([sys.executable, "-c", GRANDCHILD, *stubborn], start_new_session=True)
    if asked.metrics:
        Handler.metrics = asked.metrics.read_bytes()

    def drain(*_: object) -> None:
        time.sleep(asked.drain)
        say("drained")
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if asked.stubborn else drain)
    if asked.silent:
        time.sleep(600)
    ThreadingHTTPServer(("127.0.0.1", asked.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
