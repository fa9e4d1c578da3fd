#!/usr/bin/env python3
"""Serves files of this node to others of the fleet while its stdin stays open. Stand-alone: Python 3.6 and its library.

    serve_files.py HOST     on stdin one line of JSON: {"key": HEX, "files": {NAME: PATH}}; prints {"port": N}

GET /NAME, with `Range: bytes=N-`. Who asks shows that it has the key, which neither sends: the header
Authorization: Fleet HMAC-SHA256(key, NAME). Nothing but the named files can be had, and nothing can be written.
"""

import binascii
import hashlib
import hmac
import json
import os
import re
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Dict, Optional
from urllib.parse import unquote

SILENT_S = 60


class Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def __init__(self, host: str, key: bytes, files: Dict[str, str]) -> None:
        self.key, self.files = key, files
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENT_S
    server: Server

    def do_GET(self) -> None:
        name = unquote(self.path[1:], errors="surrogateescape")
        proof = hmac.new(self.server.key, os.fsencode(name), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), ("Fleet " + proof).encode()):
            return self.refuse(403)
        path = self.server.files.get(name)
        begin = first_byte(self.headers.get("Range"))
        if path is None or begin is None:
            return self.refuse(404 if path is None else 416)
        try:
            with open(path, "rb") as file:
                self.send(file, begin, os.fstat(file.fileno()).st_size)
        except OSError:
            self.close_connection = True  # it asks again where it got half
        return None

    def send(self, file: Any, begin: int, size: int) -> None:
        if begin > size:
            return self.refuse(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(size - begin))
        if begin:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (begin, size - 1, size))
        self.end_headers()
        self.wfile.flush()
        if size > begin:
            self.connection.sendfile(file, begin)
        return None

    def refuse(self, status: int) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing: names of files are nobody else's business."""


def first_byte(text: Optional[str]) -> Optional[int]:
    """Of `bytes=N-`; 0 without one. None: a range that is not served here."""
    if text is None:
        return 0
    found = re.match(r"bytes=([0-9]{1,18})-$", text)
    return int(found.group(1)) if found else None


def main(host: str) -> int:
    asked = json.loads(sys.stdin.readline())
    server = Server(host, binascii.unhexlify(asked["key"]), asked["files"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    sys.stdin.read()  # ends with the connection of whoever started us
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))  # threads that still send are not waited for
