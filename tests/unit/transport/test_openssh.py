"""The ssh program as a transport: what it must not leave to ssh_config, and how its complaints are told."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.transport.openssh import OpensshTransport
from llmfleet.launch.transport.openssh_config import config, failure
from llmfleet.planner.errors import AuthError, DeadlineError, HostKeyError, InputError, TransportError
from llmfleet.planner.inventory.model import Access

pytestmark = [pytest.mark.live, pytest.mark.skipif(shutil.which("ssh") is None, reason="needs the ssh program")]
Connect = Callable[..., OpensshTransport]


def test_ssh_config_cannot_turn_verification_off(connect_openssh: Connect, home: Path, tmp_path: Path) -> None:
    (home / ".ssh" / "config").write_text(
        "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  RemoteCommand touch /tmp/owned\n"
        "  ForwardAgent yes\n  RequestTTY force\n  ControlPath none\n  BatchMode no\n"
    )
    assert connect_openssh().run(("echo", "in")).stdout == "in\n"
    (tmp_path / "empty").write_text("")
    with pytest.raises(HostKeyError):
        connect_openssh(known_hosts=str(tmp_path / "empty")).connect()


def test_a_password_comes_from_its_variable(
    connect_openssh: Connect, sshd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_PASSWORD", "correct horse battery staple")
    sshd.accepts_password, sshd.authorized = True, []
    node = connect_openssh(key=None, password_env="FLEET_PASSWORD")
    assert node.run(("echo", "in")).stdout == "in\n"
    assert sshd.logins[-1] == "ops password yes"
    monkeypatch.setenv("FLEET_PASSWORD", "wrong")
    with pytest.raises(AuthError, match='it refused user "ops"'):
        connect_openssh(key=None, password_env="FLEET_PASSWORD").connect()
    monkeypatch.delenv("FLEET_PASSWORD")
    with pytest.raises(AuthError, match="FLEET_PASSWORD, which should hold the password, is not set"):
        connect_openssh(key=None, password_env="FLEET_PASSWORD").connect()


def test_dropped_connections_are_tried_again(connect_openssh: Connect, sshd: Any) -> None:
    sshd.drop_first = 2
    assert connect_openssh().run(("echo", "in")).stdout == "in\n"
    assert sshd.accepted == 3


def test_a_closed_port_is_told_at_once(connect_openssh: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = free.getsockname()[1]
    with pytest.raises(TransportError, match="refused"):
        connect_openssh(port=closed).connect()


def test_a_jump_host_is_verified_too(
    connect_openssh: Connect, start_sshd: Any, sshd: Any, home: Path
) -> None:
    jump = start_sshd()
    jump.authorized = sshd.authorized
    (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n  IdentityFile {home}/.ssh/good\n")
    known = home / ".ssh" / "known_hosts"
    with pytest.raises(HostKeyError):
        connect_openssh(jump=f"ops@127.0.0.1:{jump.port}").connect()
    known.write_text(known.read_text() + jump.known_hosts_line())
    assert connect_openssh(jump=f"ops@127.0.0.1:{jump.port}").run(("echo", "through")).stdout == "through\n"
    assert jump.logins[-1] == "ops key yes"


def test_nothing_is_left_behind(connect_openssh: Connect, sshd: Any, eventually: Any) -> None:
    node = connect_openssh()
    node.connect()
    folder = node._folder.path  # type: ignore[union-attr]
    assert folder.stat().st_mode & 0o777 == 0o700
    node.close()
    assert not folder.exists()
    assert eventually(lambda: not any(t.is_active() for t in sshd.connections))


def test_a_host_that_looks_like_an_option_is_a_host(home: Path) -> None:
    node = OpensshTransport("n", "-oProxyCommand=touch /tmp/owned", Access(connect_timeout=1))
    with pytest.raises(TransportError):
        node.connect()


SAID = [
    ("ssh: connect to host 10.0.0.9 port 22: Connection timed out", DeadlineError, "timed out"),
    ("ssh: connect to host 10.0.0.9 port 22: Connection refused", TransportError, "refused"),
    ("ssh: Could not resolve hostname gpu: Name or service not known", TransportError, "resolve"),
    ("ops@h: Permission denied (publickey).", AuthError, "publickey"),
    ("Received disconnect from 10.0.0.9 port 22:2: Too many authentication failures", AuthError, "Too many"),
    ("No ED25519 host key is known for h and you have requested strict checking.\nHost key verification failed.",
     HostKeyError, "not in"),
    ("@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nOffending ED25519 key in /k:7\nHost key verification "
     "failed.", HostKeyError, "/k:7 has another"),
    ("@ WARNING: REVOKED HOST KEY DETECTED! @\nHost key verification failed.", HostKeyError, "revokes"),
    ("", TransportError, "does not say why"),
]


@pytest.mark.parametrize(("said", "kind", "words"), SAID)
def test_complaints(said: str, kind: type[TransportError], words: str) -> None:
    error = failure(said, "node-3", "gpu", Access(user="ops"))
    assert type(error) is kind
    assert words in error.message
    assert error.hint
    assert error.node == "node-3"


def test_a_path_that_would_add_lines_to_the_configuration_is_refused() -> None:
    with pytest.raises(InputError, match="cannot name the file"):
        config(Access(known_hosts='/tmp/a" /tmp/b'))
