"""Our scripts on nodes: one serves files to the others, one gets them. Both end with the connection that runs them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from llmfleet.launch.commands.addresses import host_port
from llmfleet.launch.fleet import LIST_MODEL, PULL_FILES, SERVE_FILES
from llmfleet.launch.transport.base import Stream, Transport
from llmfleet.planner.errors import CommandError, FleetError
from llmfleet.planner.weights_source import HubSource

DISK_HINT = "Free some there, or set `runtime: {dir: …}` to a larger disk. What has arrived is kept."
CORRUPT_HINT = "The copy that it came from, its memory or its network is at fault; `llmfleet up` tries again."
ENDPOINTS = {"hf": "https://huggingface.co", "modelscope": "https://modelscope.cn"}


class PeerError(CommandError):
    """The other end could not be reached, would not serve, or served what is damaged: another may do better."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where our scripts run: a node, or this machine. `script` gives the path of one of them there."""

    name: str
    transport: Transport
    python: str
    script: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Progress:
    done: int
    total: int


class Serving:
    """Files that a node serves until `close`. `paths`: by name. The key never leaves SSH."""

    def __init__(self, host: Host, address: str, paths: Mapping[str, str]) -> None:
        self.key = secrets.token_hex(32)
        self._stream: Stream = host.transport.stream((host.python, host.script(SERVE_FILES), address))
        try:
            self._stream.write(json.dumps({"key": self.key, "files": dict(paths)}) + "\n")
            said = json.loads(next(self._stream.lines(), "null"))
            self.url = f"http://{host_port(address, int(said['port']))}"
        except (FleetError, ValueError, TypeError, KeyError):
            self._stream.close()
            what = f"it could not serve weights to others on its address {address}"
            raise PeerError(what, node=host.name) from None

    def file_url(self, name: str) -> str:
        return f"{self.url}/{quote(name, safe='')}"

    def close(self) -> None:
        self._stream.close()


def pull(host: Host, request: Mapping[str, Any], progress: Callable[[Progress], None]) -> dict[str, str]:
    """sha256 of every file, by name, once all are there. CommandError says what failed; PeerError: the other end."""
    stream = host.transport.stream((host.python, host.script(PULL_FILES)))
    try:
        stream.write(json.dumps(request) + "\n")
        for line in stream.lines():
            said = _understood(line)
            if "sums" in said:
                return dict(said["sums"])
            if "error" in said:
                raise _failure(host.name, str(said["error"]), str(said.get("kind")))
            if "done" in said:
                progress(Progress(int(said["done"]), int(said["total"])))
    finally:
        stream.close()
    raise PeerError("getting weights ended without a word", node=host.name, hint="Was it killed there? dmesg may say.")


def _understood(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _failure(node: str, why: str, kind: str) -> CommandError:
    if kind == "disk":
        return CommandError(f"weights do not fit or cannot be written: {why}", node=node, hint=DISK_HINT)
    if kind == "corrupt":
        return PeerError(f"weights are damaged: {why}", node=node, hint=CORRUPT_HINT)
    return PeerError(why, node=node)


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository's files at one commit, as the hub names them: name, size, sha256 or None, url."""

    revision: str
    files: tuple[dict[str, Any], ...]


def list_model(host: Host, source: HubSource, *, endpoint: str, token: str | None, revision: str | None) -> Listing:
    """Raises CommandError with the hub's own words."""
    asked = {
        "hub": source.hub, "endpoint": endpoint, "model": source.model, "revision": revision or source.revision,
        "file": source.file, "token": token,
    }
    argv = (host.python, host.script(LIST_MODEL))
    done = host.transport.run(argv, stdin=json.dumps(asked) + "\n", timeout=120)
    said = _understood(done.stdout.strip().rpartition("\n")[2])
    if "files" not in said:
        why = said.get("error") or (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise CommandError(f"{source.model} cannot be listed: {why}", node=host.name, hint=_hub_hint(host))
    return Listing(str(said["revision"]), tuple(said["files"]))


def _hub_hint(host: Host) -> str:
    return (
        f"Does {host.name} reach the hub? `download: {{endpoint: …}}` names a mirror, `token_env` a token, "
        "`by: controller` lets this machine fetch it."
    )
