"""Asks one address: keeps connections, writes requests, hands back samples."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urlsplit

from llmfleet.launch.bench.stream import Connection, Sample
from llmfleet.planner.errors import InputError

CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an OpenAI API is: scheme, host, port and what stands before /v1."""

    scheme: str
    host: str
    port: int
    base: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.base}"


def address(url: str) -> Address:
    """Raises InputError for what is no http URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"{url} is no address", hint="For example http://10.0.0.10:8080") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url} is no address", hint="For example http://10.0.0.10:8080")
    usual = 443 if parts.scheme == "https" else 80
    return Address(parts.scheme, parts.hostname, port or usual, parts.path.rstrip("/").removesuffix("/v1"))


class Client:
    """Connections are made as they are needed and used again, the last one first."""

    def __init__(self, where: Address, headers: Mapping[str, str] | None = None, timeout_s: float = 600.0) -> None:
        self._where = where
        self._idle: list[Connection] = []
        self._timeout_s = timeout_s
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        host = f"{where.host}:{where.port}"
        self._head = f" HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{extra}Content-Length: "

    def request(self, path: str, body: bytes) -> bytes:
        return f"POST {self._where.base}{path}{self._head}{len(body)}\r\n\r\n".encode() + body

    async def ask(self, request: bytes, due: float | None = None) -> Sample:
        """Never raises for what the server does: the sample says what went wrong."""
        sample = Sample(due=perf_counter() if due is None else due)
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connection()
                await connection.ask(request, sample)
        except TimeoutError:
            sample.error = f"no answer within {self._timeout_s:g} s"
        except OSError as error:
            sample.error = f"cannot connect: {error.strerror or error}"
        else:
            if connection.usable:
                self._idle.append(connection)
        sample.sent = sample.sent or sample.due
        sample.last = sample.last or perf_counter()
        return sample

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        where = self._where
        secure = ssl.create_default_context() if where.scheme == "https" else None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            _, made = await loop.create_connection(Connection, where.host, where.port, ssl=secure)
        return made

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
