"""What deployments of serve_front.py answer: first a head, a status and the type of what follows, then text."""

import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, Dict

from starlette.responses import Response, StreamingResponse

Json = Dict[str, Any]
Pieces = AsyncIterator[Any]
JSON, EVENTS = "application/json", "text/event-stream"


class RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class NobodyError(Exception):
    """No replica of a kind runs."""


def placed(text: str) -> str:
    """With the folder of this node in it, where every node has one of its own."""
    return text.replace("{home}", os.environ.get("LLMFLEET_HOME", ""))


def leave(why: str) -> None:
    """Ends this replica, whose engine is gone: others get its requests at once. Serve asks a replica how it is every
    other second, and believes it the third time."""
    sys.stderr.write("RuntimeError: on %s: %s\n" % (socket.gethostname(), why))
    sys.stderr.flush()
    os._exit(1)


def head_of(status: int, kind: str = JSON) -> Json:
    return {"status": status, "type": kind}


def error_text(status: int, message: str) -> str:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind}})


def refusal(status: int, message: str) -> Any:
    return Response(error_text(status, message), status, media_type=JSON)


async def respond(pieces: Pieces) -> Any:
    """An HTTP response of what `ask` yields."""
    head = await pieces.__anext__()
    if head["type"] == EVENTS:
        return StreamingResponse(pieces, head["status"], media_type=EVENTS)
    return Response("".join([piece async for piece in pieces]), head["status"], media_type=head["type"])
