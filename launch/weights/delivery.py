"""One set of weights on its way to all nodes that need it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmfleet.launch.models.checksums import Sums
from llmfleet.launch.phases.scripts import REMOTE
from llmfleet.launch.session import Session
from llmfleet.launch.transport.local import LocalTransport
from llmfleet.launch.weights.fanout import Fanout
from llmfleet.launch.weights.peers import ENDPOINTS, Host, PeerError, Progress, Serving, list_model, pull
from llmfleet.launch.weights.pins import Pin, keep_pin
from llmfleet.planner.errors import CommandError, FleetError, InputError
from llmfleet.planner.weights_source import HubSource

NOTE_EVERY_S = 5.0
HERE = "this machine"


@dataclass
class Delivery:
    """`targets`: path on each node that needs it, `ready`: on each that has it. `push` copies from `local` over SSH."""

    session: Session
    source: str
    hub: HubSource | None
    local: Path | None
    sums: Sums | None
    revision: str | None
    targets: Mapping[str, str]
    ready: Mapping[str, str]
    push: Callable[[str, Path, str, Sums], None]
    _fanout: Fanout = field(init=False)
    _serving: dict[str, Serving] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _left: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._fanout, self._left = Fanout(self.ready), set(self.targets)

    def bring(self, node: str) -> None:
        """Returns when the node has it all, whole and checked."""
        try:
            self._bring(node)
        finally:
            with self._mutex:
                self._left.discard(node)
                over = [] if self._left else list(self._serving.values())
            for serving in over:
                with suppress(FleetError):
                    serving.close()

    def _bring(self, node: str) -> None:
        failed: dict[str, str] = {}
        while True:
            peer = self._fanout.claim(node, failed)
            finished = ""
            try:
                if peer is None:
                    self._from_origin(node)
                else:
                    self._from_peer(node, peer)
                finished = node
                return
            except PeerError as error:
                if peer is None:
                    raise
                failed[peer] = error.message
                self.session.note(f"could not get weights from {peer}: {error.message}", node=node, level="warning")
            finally:
                self._fanout.release(peer, finished=finished)

    def _from_peer(self, node: str, peer: str) -> None:
        sums, target = self._known_sums(), self.targets[node]
        serving = self._serve(peer)
        files = [
            {"name": name, "path": _join(target, name), "url": serving.file_url(name), "size": size, "sha256": digest}
            for name, (size, digest) in sums.items()
        ]
        pull(self._host(node), {"files": files, "key": serving.key}, self._told(node, peer))

    def _from_origin(self, node: str) -> None:
        if self.hub is None or self.session.fleet.inventory.download.by == "controller":
            local = self.local or self._fetched_here()
            self.push(node, local, self.targets[node], self._known_sums())
        else:
            self._from_hub(self._host(node), self.targets[node], self._told(node, self.hub.hub))

    def _fetched_here(self) -> Path:
        """The hub's files on this machine, got once."""
        with self._mutex:
            if self.local is None:
                target = self.session.fleet.folder / "models" / self._repository.target
                host = Host(HERE, LocalTransport(HERE), sys.executable, lambda name: str(REMOTE / name))
                self._from_hub(host, str(target), self._told("", self._repository.hub))
                self.local = target
            return self.local

    def _from_hub(self, host: Host, target: str, told: Callable[[Progress], None]) -> None:
        hub, asked = self._repository, self.session.fleet.inventory.download
        token = _secret(asked.token_env)
        mirror = os.environ.get("HF_ENDPOINT") if hub.hub == "hf" else None
        endpoint = (asked.endpoint or mirror or ENDPOINTS[hub.hub]).rstrip("/")
        listing = list_model(host, hub, endpoint=endpoint, token=token, revision=self.revision)
        files = [{**f, "path": _join(target, f["name"]), **self._pinned(f)} for f in listing.files]
        found = pull(host, {"files": files, "token": token, "proxy": True}, told)
        sums = {f["name"]: (int(f["size"]), found[f["name"]]) for f in files}
        self.sums, self.revision = sums, listing.revision
        keep_pin(self.session.fleet.folder, self.source, Pin(listing.revision, sums))

    def _pinned(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """The sum that an earlier fetch of the same commit found, where the hub gives none."""
        known = (self.sums or {}).get(str(file["name"]))
        return {"sha256": known[1]} if known and not file["sha256"] else {}

    def _known_sums(self) -> Sums:
        if self.sums is None:
            raise CommandError("nobody has found out yet what the weights are")  # whoever goes first does
        return self.sums

    @property
    def _repository(self) -> HubSource:
        if self.hub is None:
            raise InputError(f"{self.source} is no repository of a hub")
        return self.hub

    def _serve(self, peer: str) -> Serving:
        with self._mutex:
            if peer not in self._serving:
                target = self.targets.get(peer) or self.ready[peer]
                paths = {name: _join(target, name) for name in self._known_sums()}
                address = self.session.addresses[peer]
                try:
                    self._serving[peer] = Serving(self._host(peer), address, paths)
                except FleetError as error:
                    raise PeerError(error.message, node=peer) from error
            return self._serving[peer]

    def _host(self, node: str) -> Host:
        python, folder = self.session.node(node).runtime.python, self.session.folders[node]
        return Host(node, self.session.transports[node], python, folder.script)

    def _told(self, node: str, origin: str) -> Callable[[Progress], None]:
        begun = time.monotonic()
        last, first = begun, None

        def told(progress: Progress) -> None:
            nonlocal last, first
            now = time.monotonic()
            first = progress.done if first is None else first
            if now - last >= NOTE_EVERY_S:
                last = now
                rate = (progress.done - first) / (now - begun)
                text = f"{_size(progress.done)} of {_size(progress.total)} from {origin}, {_size(rate)}/s"
                self.session.note(text, node=node)

        return told


def _join(target: str, name: str) -> str:
    return f"{target}/{name}" if name else target


def _size(count: float) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"


def _secret(variable: str | None) -> str | None:
    if variable is None:
        return None
    if variable not in os.environ:
        raise InputError(
            f"the environment variable {variable}, which should hold the hub's token, is not set",
            hint=f"read -rs {variable} && export {variable}",
        )
    return os.environ[variable]
