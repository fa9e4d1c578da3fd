"""Our scripts on each node: a few files of standard-library Python, replaced when they differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from llmfleet.launch.change.steps import Step
from llmfleet.launch.engine_key import engine_key, key_path
from llmfleet.launch.session import Session
from llmfleet.planner.plan import Instance

LAUNCH = Path(__file__).resolve().parent.parent
REMOTE, SERVE = LAUNCH / "remote", LAUNCH / "serve"
MARKER = "version"


@cache
def scripts() -> Mapping[str, bytes]:
    found = [path for room in (REMOTE, SERVE) for path in sorted(room.glob("*.py"))]
    return {path.name: path.read_bytes() for path in found if path.name != "__init__.py"}


@cache
def version() -> str:
    digest = hashlib.sha256()
    for name, body in scripts().items():
        digest.update(name.encode() + b"\0" + body + b"\0")
    return digest.hexdigest()[:16]


def script_steps(session: Session, nodes: list[str]) -> list[Step]:
    return [_step(session, node) for node in nodes]


def key_steps(session: Session, instances: Iterable[Instance]) -> list[Step]:
    """The engines' key, on the first node of each."""
    key = engine_key(session.fleet)
    nodes = sorted({i.nodes[0] for i in instances})
    return [_key_step(session, node, key) for node in nodes] if key else []


def _key_step(session: Session, node: str, key: str) -> Step:
    transport, path = session.transports[node], key_path(session.folders[node], key)
    body = f"{key}\n".encode()
    return Step(
        node,
        "give engines their key",
        needed=lambda: transport.get(path) != body,
        apply=lambda: transport.put(body, path),
    )


def _step(session: Session, node: str) -> Step:
    transport, folder = session.transports[node], session.folders[node]

    def needed() -> bool:
        return transport.get(folder.script(MARKER)) != version().encode()

    def apply() -> None:
        for name, body in scripts().items():
            transport.put(body, folder.script(name), mode=0o700)
        # last, so that a copy cut short is copied again
        transport.put(version().encode(), folder.script(MARKER))

    return Step(node, "copy scripts", needed, apply)
