"""ASGI middleware: response headers wait until the first part of the body is there. Stand-alone: the standard library.

    PYTHONPATH=FOLDER_OF_THIS_FILE vllm serve … --middleware hold_headers.HoldHeaders

Servers of streams send 200 at once and think afterwards. A router may only try another instance while the client has
seen nothing, so a request that waits for its first token dies with its instance, and one that is refused with 200
and an error as its first event cannot go where there is room. Held back, the headers leave both to be saved:
a first event {"error": {..., "code": 503}} becomes a plain answer with that status.
"""

import json
from typing import Any, Awaitable, Callable, Dict, Optional

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

START, BODY = "http.response.start", "http.response.body"
LONGEST_FIRST_EVENT = 1 << 16


class HoldHeaders:
    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, Held(send) if scope["type"] == "http" else send)


class Held:
    """The `send` of one response."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.start: Optional[Message] = None  # held back; None before the response starts and once it was sent
        self.body = b""  # held back with it: the beginning of an event stream
        self.refused = False  # answered by us: what the application still sends is dropped

    async def __call__(self, message: Message) -> None:
        if self.refused:
            return
        if message["type"] == START:
            self.start = message
        elif self.start is None:
            await self.send(message)
        elif message["type"] == BODY:
            await self.first_bytes(message)
        else:
            await self.release(message)

    async def first_bytes(self, message: Message) -> None:
        assert self.start is not None  # noqa: S101 - __call__ saw to it
        self.body += message.get("body", b"")
        stream = is_event_stream(self.start)
        event = first_event(self.body) if stream else None
        undecided = event is None and len(self.body) <= LONGEST_FIRST_EVENT if stream else not self.body
        if undecided and message.get("more_body", False):
            return
        error = error_in(event)
        if error is not None:
            await self.refuse(error)
        else:
            await self.release({**message, "body": self.body})

    async def release(self, message: Message) -> None:
        """Sends what was held and the message, in order."""
        start, self.start, self.body = self.start, None, b""
        if start is not None:
            await self.send(start)
        await self.send(message)

    async def refuse(self, error: Dict[str, Any]) -> None:
        assert self.start is not None  # noqa: S101 - first_bytes saw to it
        self.refused = True
        body = json.dumps(error).encode()
        dropped = (b"content-type", b"content-length", b"transfer-encoding")
        kept = [(name, value) for name, value in self.start.get("headers", ()) if name.lower() not in dropped]
        headers = [*kept, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": START, "status": error["error"]["code"], "headers": headers})
        await self.send({"type": BODY, "body": body})


def is_event_stream(start: Message) -> bool:
    headers = {name.lower(): value for name, value in start.get("headers", ())}
    return bool(start["status"] == 200 and headers.get(b"content-type", b"").startswith(b"text/event-stream"))


def first_event(body: bytes) -> Optional[bytes]:
    """The data of the first complete event that has any; comments, which keep connections open, have none."""
    lines = []
    for line in body.splitlines(keepends=True):
        if line.startswith(b"data:"):
            lines.append(line[5:].strip())
        elif not line.strip() and lines:
            return b"\n".join(lines)
    return None


def error_in(event: Optional[bytes]) -> Optional[Dict[str, Any]]:
    """The event's object, if it is an error with an HTTP status as its code."""
    try:
        found = json.loads(event or b"")
        return found if 400 <= found["error"]["code"] <= 599 else None
    except (ValueError, KeyError, TypeError):
        return None
