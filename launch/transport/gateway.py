"""Jump hosts. All nodes behind one share a connection to it, so that a bastion sees one login and not hundreds."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager

import paramiko
from fabric.connection import derive_shorthand
from paramiko.ssh_exception import ChannelException, SSHException

from llmfleet.launch.transport.hostkeys import SSH_PORT
from llmfleet.launch.transport.link import Link, bare_host
from llmfleet.launch.transport.ssh_config import look_up
from llmfleet.planner.errors import DeadlineError, TransportError
from llmfleet.planner.inventory.model import Access

SLOTS = 8  # connections being set up through one jump host at a time; sshd's MaxStartups drops bursts above 10
FAILED_FOR_S = 10.0  # so long a jump host that could not be reached is not tried again for the next node
FORBIDDEN, CONNECT_FAILED = 1, 2  # RFC 4254, 5.1


class Gateway:
    """`spec` is [user@]host[:port]. Many threads may use it at once.

    What ssh_config says of the jump host itself wins over the nodes' access, which fills the rest.
    """

    def __init__(self, spec: str, access: Access, via: Gateway | None = None) -> None:
        self.name = spec
        options = look_up(bare_host(spec))
        own = {"jump": None, "port": None}
        if "@" in spec or "user" in options:
            own["user"] = None
        if "identityfile" in options:
            own["key"] = None
        self._via = via
        self._link = Link(spec, spec, access.model_copy(update=own), via)
        self._mutex = threading.Lock()
        self._slots = threading.BoundedSemaphore(SLOTS)
        self._failure: tuple[float, TransportError] | None = None
        self._users = 0

    def slot(self) -> AbstractContextManager[object]:
        return self._slots

    def dial(self, host: str, port: int, timeout: float) -> paramiko.Channel:
        """A channel that carries a connection from the jump host to host:port."""
        transport = self._transport()
        try:
            return _carrier(transport, host, port, timeout)
        except _LostError:
            return _carrier(self._transport(instead_of=transport), host, port, timeout)

    def enter(self) -> None:
        """Says that somebody uses it, until they `leave`."""
        with self._mutex:
            self._users += 1
        if self._via:
            self._via.enter()

    def leave(self) -> None:
        """Closes the connection when nobody is left who uses it."""
        with self._mutex:
            self._users -= 1
            if self._users == 0:
                self._link.close()
        if self._via:
            self._via.leave()

    def _transport(self, instead_of: paramiko.Transport | None = None) -> paramiko.Transport:
        with self._mutex:
            if self._failure and time.monotonic() - self._failure[0] < FAILED_FOR_S:
                raise self._failure[1]
            try:
                transport = self._link.open()
                if transport is instead_of:  # dead, though paramiko has not noticed yet
                    self._link.close()
                    transport = self._link.open()
            except TransportError as error:
                self._failure = (time.monotonic(), error)
                raise
            return transport


def gateway_to(host: str, access: Access) -> Gateway | None:
    """The last jump host on the way to a node, shared with all who take the same way.

    It is the inventory's `jump`, else ssh_config's ProxyJump, whose jump hosts are passed one after the other.
    """
    jump = access.jump or look_up(bare_host(host)).get("proxyjump") or "none"
    hops = [] if jump.lower() == "none" else [hop.strip() for hop in jump.split(",")]
    if any(_place(hop, None) == _place(host, access.port) for hop in hops):
        return None  # a jump host is reached without itself, also where `jump` or `Host *` covers it
    gateway: Gateway | None = None
    with _mutex:
        for number, hop in enumerate(hops, 1):
            way: tuple[str | Access, ...] = (*hops[:number], access)
            if way not in _gateways:
                _gateways[way] = Gateway(hop, access, gateway)
            gateway = _gateways[way]
    return gateway


_mutex = threading.Lock()
_gateways: dict[tuple[str | Access, ...], Gateway] = {}


def _place(spec: str, port: int | None) -> tuple[str, int]:
    """Host name and port after ssh_config, of [user@]host[:port]."""
    parts = derive_shorthand(spec)
    options = look_up(parts["host"])
    return options["hostname"], int(port or parts["port"] or options.get("port", SSH_PORT))


class _LostError(TransportError):
    """The connection to the jump host turned out to be dead."""


def _carrier(transport: paramiko.Transport, host: str, port: int, timeout: float) -> paramiko.Channel:
    try:
        return transport.open_channel("direct-tcpip", (host, port), ("", 0), timeout=timeout)
    except ChannelException as error:
        raise _refused(error, host, port) from error
    except (SSHException, EOFError, OSError) as error:
        if "Timeout" in str(error):
            raise DeadlineError(f"{host}:{port} did not answer within {timeout:g} s") from error
        raise _LostError("the connection was lost") from error


def _refused(error: ChannelException, host: str, port: int) -> TransportError:
    if error.code == FORBIDDEN:
        hint = "Its sshd_config needs `AllowTcpForwarding yes` (or `local`), and a PermitOpen that includes the node."
        return TransportError(f"it does not let us on to {host}:{port}", hint=hint)
    if error.code == CONNECT_FAILED:
        hint = "Does sshd run there, and does the jump host reach it? Names are resolved by the jump host."
        return TransportError(f"it cannot connect to {host}:{port}", hint=hint)
    return TransportError(f"it opens no connection to {host}:{port}: {error.text}")
