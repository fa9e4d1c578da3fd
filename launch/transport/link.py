"""One authenticated SSH connection: opened on first use, opened again when it died, host key always verified.

fabric's Connection merges what we are told with ssh_config. Its AutoAddPolicy, which trusts every host, is replaced
before anything is sent; with no keys loaded into paramiko, the policy set here sees every server key and decides.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

import fabric
import paramiko
from paramiko.ssh_exception import IncompatiblePeer, SSHException

from llmfleet.launch.transport.hostkeys import SSH_PORT, HostKey, KnownHosts, name_of, read_known_hosts, verify
from llmfleet.launch.transport.login import Login
from llmfleet.launch.transport.ssh_config import look_up, ssh_config
from llmfleet.planner.errors import DeadlineError, FleetError, InputError, TransportError
from llmfleet.planner.inventory.model import Access

ATTEMPTS = 3
BACKOFF_S = 0.5
KEEPALIVE_S = 15
UNANSWERED_MS = 45_000  # the kernel gives a connection up whose data nobody acknowledged for so long
KEY_TYPES = (  # each group is one kind of key
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
IDLE_LOOK_S = 1.0  # paramiko wakes up ten times a second on each connection, which hundreds of them cannot afford
LOGIN_FACTOR = 3.0  # directory services make logins slower than connects

# Otherwise Python prints paramiko's warnings, tracebacks included, on stderr. What matters is in our exceptions.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class Route(Protocol):
    """A jump host, to those who connect through it."""

    name: str

    def slot(self) -> AbstractContextManager[object]:
        """Held while a connection through it is being set up."""
        ...

    def dial(self, host: str, port: int, timeout: float) -> paramiko.Channel: ...


class _HiccupError(TransportError):
    """A failure to connect that another attempt, at once, may not meet."""


class Link:
    """`name` is the node's (or jump host's) in messages."""

    def __init__(self, name: str, host: str, access: Access, route: Route | None = None) -> None:
        self.name, self.access, self._route = name, access, route
        options = look_up(bare_host(host))
        try:
            config = fabric.Config(lazy=True, ssh_config=ssh_config())
            self._connection = fabric.Connection(host, user=access.user, port=access.port, config=config, gateway=False)
        except ValueError as error:
            raise InputError(f'"{host}" is no SSH address: {error}', node=name) from error
        self.host, self.port, self.user = self._connection.host, int(self._connection.port), self._connection.user
        self._mutex = threading.Lock()
        self._connection.connect_timeout = None  # passed below, where it may be a fraction of a second
        self._identities: Sequence[str] = options.get("identityfile", ())
        self._identities_only = options.get("identitiesonly", "no") == "yes"

    def open(self) -> paramiko.Transport:
        """The live connection. Failures that may heal are tried again; a wrong host key or login is not."""
        with self._mutex:  # one thread may read a stream on it while another runs a command
            return self._opened()

    def _opened(self) -> paramiko.Transport:
        attempt = 1
        while not self._connection.is_connected:
            try:
                self._connect()
            except _HiccupError as error:
                if attempt == ATTEMPTS:
                    what = f"{error.message} ({ATTEMPTS} attempts)"
                    raise TransportError(what, hint=error.hint, node=self.name, heals=True) from error
                time.sleep(BACKOFF_S * attempt * random.uniform(0.5, 1.5))  # noqa: S311 spreads bursts, hides nothing
                attempt += 1
        transport: paramiko.Transport = self._connection.transport
        return transport

    def close(self) -> None:
        self._connection.client.close()

    def host_keys(self) -> tuple[HostKey, ...]:
        """The keys that the server proves to hold, whether known or not; nothing of ours is sent."""
        found = []
        for types in KEY_TYPES:
            with self._route.slot() if self._route else nullcontext():
                key = self._offered(types)
            if key is not None:
                found.append(key)
        return tuple(found)

    def _offered(self, types: tuple[str, ...]) -> HostKey | None:
        """None: it has no key of these types."""
        sock = self._dial()
        try:
            transport = paramiko.Transport(sock)
            transport.banner_timeout = self.access.connect_timeout
            transport.get_security_options().key_types = types
            try:
                transport.start_client(timeout=LOGIN_FACTOR * self.access.connect_timeout)
                key = transport.get_remote_server_key()
                return HostKey(key.get_name(), key.asbytes())
            finally:
                transport.close()
        except IncompatiblePeer:
            return None
        except (SSHException, OSError, EOFError) as error:
            raise self._explained(error) from error
        finally:
            with suppress(SSHException, EOFError, OSError):
                sock.close()

    def _connect(self) -> None:
        login = Login(self.name, self.user, self.access, self._identities, identities_only=self._identities_only)
        known = read_known_hosts(self.access.known_hosts)
        with self._route.slot() if self._route else nullcontext():
            sock = self._dial()
            try:
                self._connection.connect_kwargs = self._options(sock, login, known)
                self._connection.client.set_missing_host_key_policy(_Verified(lambda key: self._verify(known, key)))
                self._connection.open()
            except (SSHException, OSError, EOFError) as error:
                raise self._explained(error) from error
            finally:
                if not self._connection.is_connected:
                    self.close()
                    with suppress(SSHException, EOFError, OSError):  # it may be a channel of a connection that died
                        sock.close()
        self._connection.transport.set_keepalive(KEEPALIVE_S)
        sock.settimeout(IDLE_LOOK_S)

    def _dial(self) -> socket.socket | paramiko.Channel:
        wait = self.access.connect_timeout
        if self._route is None:
            return _tcp(self.name, self.host, self.port, wait)
        try:
            return self._route.dial(self.host, self.port, wait)
        except TransportError as error:
            what = f"by way of {self._route.name}: {error.message}"
            raise type(error)(what, hint=error.hint, node=self.name, heals=error.heals) from error

    def _options(self, sock: socket.socket | paramiko.Channel, login: Login, known: KnownHosts) -> dict[str, Any]:
        wait = self.access.connect_timeout
        types = [e.key.type for e in known.keys_of(name_of(self.host, self.port))]
        return {
            "sock": sock,
            "timeout": wait,
            "banner_timeout": wait,
            "auth_timeout": LOGIN_FACTOR * wait,
            "auth_strategy": login,
            "transport_factory": lambda sock, **options: _asking_for(types, paramiko.Transport(sock, **options)),
        }

    def _verify(self, known: KnownHosts, key: HostKey) -> None:
        kind = key.type.removeprefix("ssh-").split("-")[0]
        port = "" if self.port == SSH_PORT else f"-p {self.port} "
        through = f"ssh {_for_ssh(self._route.name)} " if self._route else ""
        scan = f"{through}ssh-keyscan {port}-t {kind} {self.host}"
        verify(known, name_of(self.host, self.port), key, node=self.name, scan=scan)

    def _explained(self, error: Exception) -> FleetError:
        place = f"{self.host}:{self.port}"
        if isinstance(error, IncompatiblePeer):
            what = f"{place} and this machine share no SSH algorithm: {error}"
            hint = "Its SSH server is too old: it needs SHA-2 signatures and a key exchange of this decade."
            return TransportError(what, hint=hint, node=self.name)
        if "Indecipherable" in str(error) or "Invalid SSH banner" in str(error):
            return TransportError(f"{place} answers, but not as an SSH server", hint="Check the port.", node=self.name)
        if _timed_out(error):
            what = f"{place} accepts connections, but no SSH server answered within {self.access.connect_timeout:g} s"
            hint = "The machine may be overloaded, or something else listens there."
            return DeadlineError(what, hint=hint, node=self.name, heals=True)
        what = f"{place} dropped the connection before the login: {error or type(error).__name__}"
        hint = "Its sshd may refuse bursts (MaxStartups), or not be well: journalctl -u ssh on the machine."
        return _HiccupError(what, hint=hint, node=self.name)


class _Verified(paramiko.MissingHostKeyPolicy):
    """Asks `check` about every server key; its exception ends the connection before anything secret is sent."""

    def __init__(self, check: Callable[[HostKey], None]) -> None:
        self._check = check

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        self._check(HostKey(key.get_name(), key.asbytes()))


def _asking_for(types: Sequence[str], transport: paramiko.Transport) -> paramiko.Transport:
    """Negotiates the key types that known_hosts has for the server before others, and ciphers that authenticate on
    their own before those that need an HMAC, which paramiko compares byte by byte in Python."""
    wanted = {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in types else set()
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in wanted.union(types))
    options.ciphers = sorted(options.ciphers, key=lambda cipher: "gcm" not in cipher)
    return transport


def _tcp(node: str, host: str, port: int, timeout: float) -> socket.socket:
    place = f"{host}:{port}"
    try:
        sock = socket.create_connection((host, port), timeout)
    except (socket.gaierror, UnicodeError) as error:
        raise _unresolved(node, host, error) from error
    except TimeoutError as error:
        hint = "Is the machine on, and does a firewall let you through?"
        what = f"{place} did not answer within {timeout:g} s"
        raise DeadlineError(what, hint=hint, node=node, heals=True) from error
    except ConnectionRefusedError as error:
        hint = "Does sshd run there, on that port?"
        raise TransportError(f"{place} refused the connection", hint=hint, node=node, heals=True) from error
    except ConnectionResetError as error:
        raise _HiccupError(f"{place} reset the connection", node=node) from error
    except OSError as error:
        raise TransportError(f"{place} cannot be reached: {error.strerror or error}", node=node) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else every command waits 40 ms for an acknowledgement
    return sock


def _unresolved(node: str, host: str, error: socket.gaierror | UnicodeError) -> TransportError:
    may_heal = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
    why = error.strerror if isinstance(error, socket.gaierror) else "no valid host name"
    kind = _HiccupError if may_heal else TransportError
    return kind(f'"{host}" cannot be resolved: {why}', hint="Check `host:` in the inventory, or DNS.", node=node)


def _timed_out(error: BaseException) -> bool:
    """paramiko hides a timeout inside its own exceptions, or says only that there is no session."""
    inside = isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)
    return inside or "No existing session" in str(error)


def _for_ssh(spec: str) -> str:
    """[user@]host[:port] as the ssh command takes it."""
    return f"ssh://{spec}" if ":" in spec else spec


def bare_host(host: str) -> str:
    """The name that ssh_config knows: without user and port, as fabric takes them off."""
    bare: str = fabric.connection.derive_shorthand(host)["host"]
    return bare
