"""A real SSH server (paramiko's server side) on loopback that runs commands with sh."""

# ruff: noqa: ARG002  paramiko calls these with more than they need
from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from llmfleet.launch.transport.openssh import OpensshTransport
from llmfleet.launch.transport.ssh import SshTransport
from llmfleet.planner.inventory.model import Access

PASSWORD = "correct horse battery staple"


def make_key(passphrase: str = "") -> tuple[str, paramiko.Ed25519Key]:
    """The private key's text, and the key."""
    private = Ed25519PrivateKey.generate()
    plain = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    key = paramiko.Ed25519Key.from_private_key(StringIO(plain))
    if not passphrase:
        return plain, key
    locked = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(passphrase.encode()))
    return locked.decode(), key


class Sshd:
    """Host keys, who may log in, and how it misbehaves, are attributes; `commands` and `logins` say what happened."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.host_keys: list[paramiko.PKey] = [make_key()[1]]
        self.authorized: list[paramiko.PKey] = []
        self.client_home = home
        self.accepts_password = False
        self.drop_first = 0  # so many connections are closed before the banner
        self.max_sessions = 1000
        self.profile = ""  # what the login shell does before it runs a command
        self.executes = threading.Event()  # cleared: requests to run something get no answer
        self.executes.set()
        self.forwards = True
        self.commands: list[bytes] = []
        self.logins: list[str] = []
        self.connections: list[paramiko.Transport] = []
        self.accepted = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def known_hosts_line(self, key: paramiko.PKey | None = None, name: str = "") -> str:
        key = key or self.host_keys[0]
        return f"{name or f'[127.0.0.1]:{self.port}'} {key.get_name()} {key.get_base64()}\n"

    def hang_up(self) -> None:
        """Every connection dies, as in a crash."""
        for transport in self.connections:
            transport.close()
        self.connections.clear()

    def stop(self) -> None:
        self.executes.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # ends accept
        self._socket.close()
        self._thread.join(5)
        self.hang_up()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            if self.accepted <= self.drop_first:
                client.close()
                continue
            transport = _Connection(client)
            for key in self.host_keys:
                transport.add_server_key(key)
            transport.start_server(threading.Event(), _Rules(self, transport))
            self.connections.append(transport)


class _Connection(paramiko.Transport):
    """Tells when the answer to a request is on its way: a command must not end its channel before that."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__(client)
        self.replied = threading.Event()

    def _send_user_message(self, data: Any) -> None:
        super()._send_user_message(data)
        if threading.current_thread() is self:
            self.replied.set()


class _Rules(paramiko.ServerInterface):
    def __init__(self, sshd: Sshd, transport: _Connection) -> None:
        self.sshd, self.transport = sshd, transport
        self.sessions = 0
        self.targets: dict[int, tuple[str, int]] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password" if self.sshd.accepts_password else "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = any(key.asbytes() == k.asbytes() for k in self.sshd.authorized)
        return self._answer(username, "key", good)

    def check_auth_password(self, username: str, password: str) -> int:
        return self._answer(username, "password", self.sshd.accepts_password and password == PASSWORD)

    def _answer(self, username: str, how: str, good: bool) -> int:
        self.sshd.logins.append(f"{username} {how} {'yes' if good else 'no'}")
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.sessions += 1
        if self.sessions > self.sshd.max_sessions:
            return paramiko.OPEN_FAILED_RESOURCE_SHORTAGE
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.sshd.executes.wait(30)
        self.sshd.commands.append(command)
        self.transport.replied.clear()
        threading.Thread(target=self._execute, args=(channel, command), daemon=True).start()
        return True

    def check_channel_direct_tcpip_request(self, chanid: int, origin: Any, destination: tuple[str, int]) -> int:
        if not self.sshd.forwards:
            return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        try:
            onward = socket.create_connection(destination, 5)
        except OSError:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        threading.Thread(target=self._forward, args=(chanid, onward), daemon=True).start()
        return paramiko.OPEN_SUCCEEDED

    def _execute(self, channel: paramiko.Channel, command: bytes) -> None:
        self.transport.replied.wait(10)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [b"sh", b"-c", self.sshd.profile.encode() + b"\n" + command],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
            env={**os.environ, "HOME": str(self.sshd.home)},
        )
        self.sshd.processes.append(process)
        with process:
            assert process.stdin and process.stdout and process.stderr
            threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True).start()
            errors = threading.Thread(target=_pump, args=(process.stderr, channel.sendall_stderr), daemon=True)
            errors.start()
            _pump(process.stdout, channel.sendall)
            errors.join()
            code = process.wait()
        with contextlib.suppress(OSError, EOFError):
            if code >= 0:  # as sshd: a signal is no exit status
                channel.send_exit_status(code)
            channel.shutdown_write()
            channel.close()

    def _forward(self, chanid: int, onward: socket.socket) -> None:
        channel = None
        while channel is None and self.transport.is_active():  # accept may come back with nothing before its time
            channel = self.transport.accept(0.5)
        if channel is None:
            onward.close()
            return
        back = threading.Thread(target=_pump_socket, args=(onward, channel), daemon=True)
        back.start()
        with onward, contextlib.suppress(OSError, EOFError):
            while chunk := channel.recv(32768):
                onward.sendall(chunk)
            onward.shutdown(socket.SHUT_RDWR)
        back.join(5)
        with contextlib.suppress(OSError, EOFError):
            channel.close()


def _feed(channel: paramiko.Channel, stdin: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := channel.recv(32768):
            stdin.write(chunk)
            stdin.flush()
    with contextlib.suppress(OSError, ValueError):
        stdin.close()


def _pump(source: Any, send: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError, EOFError, ValueError):
        while chunk := source.read1(32768):
            send(chunk)


def _pump_socket(source: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError):
        while chunk := source.recv(32768):
            channel.sendall(chunk)
    with contextlib.suppress(OSError, EOFError):
        channel.shutdown_write()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home on this side: no keys, no agent, no ssh_config of whoever runs the tests."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr("llmfleet.launch.transport.ssh_config.SYSTEM", tmp_path / "etc")
    monkeypatch.setattr("llmfleet.launch.transport.link.BACKOFF_S", 0.01)
    return folder


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[[], Sshd]]:
    servers: list[Sshd] = []

    def start() -> Sshd:
        there = tmp_path / f"server{len(servers)}"
        there.mkdir()
        servers.append(Sshd(there))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def sshd(start_sshd: Callable[[], Sshd], home: Path) -> Sshd:
    """A server that knows our key ~/.ssh/good and is in our known_hosts."""
    server = start_sshd()
    text, key = make_key()
    (home / ".ssh" / "good").write_text(text)
    server.authorized.append(key)
    server.client_home = home
    (home / ".ssh" / "known_hosts").write_text(server.known_hosts_line())
    return server


@pytest.fixture
def connect(sshd: Sshd) -> Iterator[Callable[..., SshTransport]]:
    """Makes transports to the server; keywords override keys of the access."""
    made: list[SshTransport] = []

    def build(**access: Any) -> SshTransport:
        settings = {"user": "ops", "port": sshd.port, "key": "~/.ssh/good", "connect_timeout": 10.0, **access}
        made.append(SshTransport("node-3", "127.0.0.1", Access(**settings)))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


@pytest.fixture
def connect_openssh(sshd: Sshd) -> Iterator[Callable[..., OpensshTransport]]:
    """The same by the ssh program, which reads the host's real /etc/passwd: our folders are named one by one."""
    made: list[OpensshTransport] = []
    if shutil.which("ssh") is None:
        pytest.skip("no ssh program here")

    def build(**access: Any) -> OpensshTransport:
        key = str(sshd.client_home / ".ssh" / "good")
        known = str(sshd.client_home / ".ssh" / "known_hosts")
        (sshd.client_home / ".ssh" / "good").chmod(0o600)
        settings = {"user": "ops", "port": sshd.port, "key": key, "known_hosts": known, "connect_timeout": 10.0}
        made.append(OpensshTransport("node-3", "127.0.0.1", Access(**{**settings, **access})))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


@pytest.fixture
def hashed() -> Callable[[str], str]:
    """Turns a name into what HashKnownHosts writes."""

    def build(name: str) -> str:
        salt = b"12345678901234567890"
        digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
        return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"

    return build


@pytest.fixture
def new_key() -> Callable[..., tuple[str, paramiko.Ed25519Key]]:
    return make_key


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], bool]:
    """Polls a condition; False when it does not come true in time."""

    def wait(condition: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + 10
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    return wait
