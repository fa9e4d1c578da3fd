"""What the router answers to what no client should send, and what its memory does over many requests of all kinds."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from asking import Client, answers_of, listens, prompt, ready
from running import CHAT, KEY, Running, engine, free_ports, our_router, stopped_after, until

REQUESTS = int(os.environ.get("REQUESTS", "20000"))
SLOW_S = 20
MIB = 1 << 20
FORM = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
CASES: dict[str, tuple[int, bytes]] = {  # what, the status it should get, the body
    "broken JSON": (400, b'{"model": "chat", "messages": ['),
    "no model": (400, b'{"messages": []}'),
    "model as a number": (400, b'{"model": 7}'),
    "100 000 nested brackets": (400, b'{"model": "chat", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a body of 40 MB": (413, b'{"model": "chat", "x": "' + b"x" * 40 * MIB + b'"}'),
    "multipart audio": (400, FORM),
    "an unknown model": (404, b'{"model": "nobody"}'),
    "nothing": (400, b""),
}


def rows(folder: Path) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        ports = [stack.enter_context(stopped_after(engine(folder, port, ""))).port for port in free_ports(3)]
        for port in ports:
            until(lambda port=port: listens(port), "engines")  # type: ignore[misc]
        router = stack.enter_context(stopped_after(our_router(folder, ports)))
        ready(router, 3)
        for what, (expected, body) in CASES.items():
            yield what, judged(raw(router.port, post(body)), expected)
        wide = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-wide: {'x' * MIB}\r\n\r\n".encode()
        yield "a header of 1 MB", judged(raw(router.port, wide), 431)
        old = f"GET /v1/models HTTP/1.0\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
        yield "HTTP/1.0", judged(raw(router.port, old), 426)
        yield "headers that never end (10 s)", judged(raw(router.port, b"POST /v1/x HTTP/1.1\r\nhost: x\r\n"), 408)
        leave(router.port)
        yield "after all that, an ordinary request", judged(Client(router.port).ask(prompt("hello"))[0], 200)
        yield f"memory over {REQUESTS} requests, a tenth of them bad", memory(router)


def judged(status: int, expected: int) -> str:
    return f"{status}" if status == expected else f"{status} INSTEAD OF {expected}"


def post(body: bytes) -> bytes:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def raw(port: int, request: bytes) -> int:
    """The status of the answer; 0 where the connection ends without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=SLOW_S) as connection:
        with contextlib.suppress(OSError):  # refused before all was sent: the answer is there
            connection.sendall(request)
        try:
            answer = connection.recv(4096)
        except OSError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


def leave(port: int) -> None:
    """Clients that hang up in the middle of a request and of an answer."""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(post(prompt("I am off"))[:-10])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(post(prompt("I am off")))


def memory(router: Running) -> str:
    """Resident MiB at five points on the way."""
    good = [prompt(f"question {n}", 2000) for n in range(900)]
    bad = [json.dumps({"model": "nobody", "n": n}).encode() for n in range(100)]
    bodies: Sequence[bytes] = good + bad
    found = []
    for _ in range(5):
        for _ in range(max(1, REQUESTS // 5 // len(bodies))):
            answers_of(router.port, bodies, 8)
        found.append(resident_mib(router.process.pid))
    return " → ".join(f"{mib:.0f}" for mib in found) + " MiB"


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB
