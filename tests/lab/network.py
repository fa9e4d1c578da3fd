"""One Ethernet segment for the hosts of a lab: a bridge on this machine and a cable to each host.

The hosts reach each other and the bridge's address, and nothing else: they have no default route.
Every device carries the lab's tag as its alias, so that a later run finds what a killed one left.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass

from tests.lab.system import LabUnavailableError


class NetworkError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Network:
    tag: str
    number: int  # third byte of the addresses

    @property
    def bridge(self) -> str:
        return f"lf{self.number}"

    @property
    def gateway(self) -> str:
        return f"10.77.{self.number}.1"

    def address(self, port: int) -> str:
        return f"10.77.{self.number}.{10 + port}"

    def connect(self, port: int, pid: int) -> None:
        """A cable from the bridge to eth0 of the network namespace that process `pid` is in."""
        far_end = ["peer", "name", "eth0", "address", self._mac(port), "netns", str(pid)]
        _ip("link", "add", self._cable(port), "type", "veth", *far_end)
        _ip("link", "set", self._cable(port), "alias", self.tag, "master", self.bridge, "up")

    def disconnect(self, port: int) -> None:
        """Removes both ends of the cable: no packet leaves the host after this, not even a goodbye."""
        _delete(self._cable(port))

    def set_cable(self, port: int, *, up: bool) -> None:
        _ip("link", "set", self._cable(port), "up" if up else "down")

    def _cable(self, port: int) -> str:
        return f"{self.bridge}-{port}"

    def _mac(self, port: int) -> str:
        # Fixed, so that neighbours find a host again at once after its power comes back.
        return f"02:4c:46:{self.number:02x}:00:{10 + port:02x}"


def create(tag: str) -> Network:
    """A segment on the first free number; runs beside each other differ in it, since device names are unique."""
    for step in range(254):
        network = Network(tag, 1 + (os.getpid() + step) % 254)
        if f"10.77.{network.number}." in _ip("route", "show", "match", network.gateway, "table", "all"):
            continue
        mac = f"02:4c:46:{network.number:02x}:00:01"
        try:
            _ip("link", "add", network.bridge, "address", mac, "type", "bridge")
        except NetworkError:
            continue  # another run took it
        _ip("link", "set", network.bridge, "alias", tag)
        _ip("address", "add", f"{network.gateway}/24", "dev", network.bridge)
        _ip("link", "set", network.bridge, "up")
        return network
    raise LabUnavailableError("no network 10.77.<n>.0/24 is free for the lab")


def remove(tag: str) -> None:
    """Removes every device that carries the tag: cables first, then the bridge."""
    devices = [link["ifname"] for link in _links() if link.get("ifalias") == tag]
    for device in sorted(devices, key=len, reverse=True):
        _delete(device)


def tags() -> set[str]:
    """The aliases of all devices of this machine."""
    return {link["ifalias"] for link in _links() if "ifalias" in link}


def _links() -> list[dict[str, str]]:
    links: list[dict[str, str]] = json.loads(_ip("-json", "link", "show") or "[]")
    return links


def _delete(device: str) -> None:
    with contextlib.suppress(NetworkError):  # its namespace may have taken it along
        _ip("link", "delete", device)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise NetworkError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
