"""Clients for the router benchmarks: one at a time, many at once, or a load that goes on while something happens."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from running import CHAT, KEY, Running, until


class Client:
    """One connection that stays open. `ask` answers status and headers."""

    def __init__(self, port: int, key: str = KEY) -> None:
        self.port, self.key = port, key
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, body: bytes) -> tuple[int, dict[str, str]]:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n"
        head += "content-type: application/json\r\n"
        self.socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        top, _, rest = got.partition(b"\r\n\r\n")
        status, *lines = top.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        left = int(headers.get("content-length", 0)) - len(rest)
        while left > 0:
            left -= len(self._more())
        return int(status.split()[1]), headers

    def _more(self) -> bytes:
        if data := self.socket.recv(65536):
            return data
        raise ConnectionError("closed")


def prompt(text: str, size: int = 0) -> bytes:
    messages = [{"role": "user", "content": text + " " + "word " * (size // 5)}]
    return json.dumps({"messages": messages, "model": "chat", "temperature": 0.7, "max_tokens": 100}).encode()


def answers_of(port: int, bodies: Sequence[bytes], clients: int) -> list[tuple[int, dict[str, str]]]:
    """All bodies, from so many clients at once; each takes the next one when it has its answer."""
    found: list[tuple[int, dict[str, str]]] = [(0, {})] * len(bodies)
    queue, lock = iter(range(len(bodies))), threading.Lock()

    def work() -> None:
        client = Client(port)
        while True:
            with lock:
                n = next(queue, None)
            if n is None:
                return
            found[n] = client.ask(bodies[n])

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def ready(router: Running, distinct: int = 1) -> None:
    """Answers, and from all instances where it names them: health checks are through."""

    def answers() -> bool:
        try:
            client = Client(router.port)
            seen = [client.ask(prompt(f"ready {n}")) for n in range(30 if distinct > 1 else 1)]
        except OSError:
            return False
        names = {headers.get("x-llmfleet-instance") for _, headers in seen}
        return all(status == 200 for status, _ in seen) and len(names) >= distinct

    until(answers, f"{router.argv[0]} ready")


def listens(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Asked:
    begun: float
    ended: float
    status: int  # 0: no answer
    headers: dict[str, str]

    @property
    def instance(self) -> str:
        return self.headers.get("x-llmfleet-instance", "")


@dataclass
class Load:
    """Clients that ask one thing after the other, each question a prefix of its own, until they are told to stop."""

    port: int
    clients: int
    key: str = KEY
    pause_s: float = 0.0  # between an answer and the next question
    log: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self._work, args=(n,)) for n in range(self.clients)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    def _work(self, n: int) -> None:
        client, k = Client(self.port, self.key), 0
        while not self.done.is_set():
            begun, k = time.monotonic(), k + 1
            try:
                status, headers = client.ask(prompt(f"client {n} of {id(self)} asks {k}"))
            except OSError:
                status, headers = 0, {}
            self.log.append(Asked(begun, time.monotonic(), status, headers))
            if status == 0 or headers.get("connection") == "close":
                client.connect()
            time.sleep(self.pause_s)

    @property
    def failed(self) -> int:
        return sum(asked.status != 200 for asked in self.log)

    @property
    def worst_s(self) -> float:
        return max(asked.ended - asked.begun for asked in self.log)
