"""Reaching a node: host keys, logins, and networks that misbehave."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from llmfleet.launch.transport.ssh import SshTransport
from llmfleet.planner.errors import AuthError, DeadlineError, HostKeyError, InputError, TransportError
from llmfleet.planner.inventory.model import Access

pytestmark = pytest.mark.live

Connect = Callable[..., SshTransport]
PASSWORD = "correct horse battery staple"


def known_hosts(home: Path) -> Path:
    return home / ".ssh" / "known_hosts"


class TestHostKeys:
    def test_an_unknown_key_is_refused_before_any_login(self, connect: Connect, sshd: Any, home: Path) -> None:
        known_hosts(home).write_text("elsewhere ssh-ed25519 AAAA\n")
        with pytest.raises(HostKeyError) as failure:
            connect().connect()
        print_ = sshd.host_keys[0].fingerprint
        assert str(failure.value) == (
            f"node-3: its host key is not in ~/.ssh/known_hosts (it offers ssh-ed25519 {print_})\n"
            "  → If that is the machine you expect: llmfleet trust node-3\n"
            f"    (or: ssh-keyscan -p {sshd.port} -t ed25519 127.0.0.1 >> ~/.ssh/known_hosts)"
        )
        assert failure.value.exit_code == 3
        assert sshd.logins == []
        assert sshd.accepted == 1  # not tried again

    def test_a_missing_known_hosts_file_knows_nobody(self, connect: Connect, home: Path) -> None:
        known_hosts(home).unlink()
        with pytest.raises(HostKeyError, match=r"is not in ~/.ssh/known_hosts"):
            connect().connect()

    def test_a_changed_key_names_both_and_the_line(self, connect: Connect, sshd: Any, home: Path, new_key: Any) -> None:
        other = new_key()[1]
        known_hosts(home).write_text("# mine\n" + sshd.known_hosts_line(other))
        with pytest.raises(HostKeyError) as failure:
            connect().run(("true",))
        message = str(failure.value)
        assert f"its host key changed: ~/.ssh/known_hosts:2 has ssh-ed25519 {other.fingerprint}" in message
        assert f"it offers ssh-ed25519 {sshd.host_keys[0].fingerprint}" in message
        assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f ~/.ssh/known_hosts && ssh-keyscan" in message
        assert "llmfleet trust node-3 --replace" in message
        assert sshd.logins == []

    def test_a_revoked_key_is_refused_though_it_is_also_known(self, connect: Connect, sshd: Any, home: Path) -> None:
        known_hosts(home).write_text(sshd.known_hosts_line() + "@revoked " + sshd.known_hosts_line(name="*"))
        with pytest.raises(HostKeyError, match="known_hosts:2 revokes"):
            connect().connect()

    def test_hashed_names_and_hostile_lines(self, connect: Connect, sshd: Any, home: Path, hashed: Any) -> None:
        lines = [
            "@cert-authority " + sshd.known_hosts_line(name="*.example"),
            "[127.0.0.1]:1 ssh-ed25519 not!base64\n",
            "too short\n",
            sshd.known_hosts_line(name=hashed(f"[127.0.0.1]:{sshd.port}")),
        ]
        known_hosts(home).write_text("".join(lines))
        assert connect().run(("true",)).ok

    def test_the_key_type_that_is_known_is_asked_for(self, connect: Connect, sshd: Any, home: Path) -> None:
        sshd.host_keys += [paramiko.ECDSAKey.generate(), paramiko.RSAKey.generate(2048)]
        for key in sshd.host_keys:
            known_hosts(home).write_text(sshd.known_hosts_line(key))
            assert connect().run(("true",)).ok

    def test_an_authority_for_the_host_is_said_to_be_unused(self, connect: Connect, sshd: Any, home: Path) -> None:
        known_hosts(home).write_text("@cert-authority " + sshd.known_hosts_line(name="*"))
        with pytest.raises(HostKeyError, match=r"lines of ~/.ssh/known_hosts count with `transport: openssh` only"):
            connect().connect()

    def test_the_inventory_chooses_the_file(self, connect: Connect, home: Path, tmp_path: Path) -> None:
        known_hosts(home).rename(tmp_path / "hosts")
        assert connect(known_hosts=str(tmp_path / "hosts")).run(("true",)).ok


class TestLogin:
    def test_the_key_of_the_inventory(self, connect: Connect, sshd: Any) -> None:
        connect().connect()
        assert sshd.logins[-1] == "ops key yes"

    def test_a_wrong_key(self, connect: Connect, sshd: Any, home: Path, new_key: Any) -> None:
        (home / ".ssh" / "wrong").write_text(new_key()[0])
        with pytest.raises(AuthError) as failure:
            connect(key="~/.ssh/wrong").connect()
        assert 'node-3: it refused user "ops"; tried key ~/.ssh/wrong' in str(failure.value)
        assert "ssh-copy-id" in failure.value.hint
        assert sshd.accepted == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "the key file ~/.ssh/broken does not exist"),
            ("not a key", "the key file ~/.ssh/broken is no private key that can be used here"),
        ],
    )
    def test_an_unusable_key_file(self, connect: Connect, sshd: Any, home: Path, content: str, message: str) -> None:
        if content is not None:
            (home / ".ssh" / "broken").write_text(content)
        with pytest.raises(AuthError, match=message):
            connect(key="~/.ssh/broken").connect()
        assert sshd.accepted == 0

    def test_a_key_behind_a_passphrase(self, connect: Connect, home: Path, new_key: Any) -> None:
        (home / ".ssh" / "locked").write_text(new_key("secret")[0])
        with pytest.raises(AuthError, match=r"the key file ~/.ssh/locked is protected by a passphrase") as failure:
            connect(key="~/.ssh/locked").connect()
        assert "ssh-add ~/.ssh/locked" in failure.value.hint

    def test_a_password_from_the_environment(self, connect: Connect, sshd: Any, monkeypatch: Any) -> None:
        sshd.accepts_password = True
        monkeypatch.setenv("FLEET_PASSWORD", PASSWORD)
        node = connect(key=None, password_env="FLEET_PASSWORD")
        assert node.run(("true",)).ok
        assert PASSWORD not in repr(vars(node)) + repr(vars(node._link))

    def test_a_wrong_password_is_not_told(self, connect: Connect, sshd: Any, monkeypatch: Any) -> None:
        sshd.accepts_password = True
        monkeypatch.setenv("FLEET_PASSWORD", "hunter2")
        with pytest.raises(AuthError) as failure:
            connect(key=None, password_env="FLEET_PASSWORD").connect()
        told = f"{failure.value} {failure.value!r} {failure.value.__cause__!r}"
        assert 'it refused user "ops"; tried the password in FLEET_PASSWORD' in told
        assert "hunter2" not in told

    def test_a_password_that_is_not_there(self, connect: Connect, sshd: Any) -> None:
        with pytest.raises(AuthError, match=r"the environment variable FLEET_PASSWORD, .* is not set"):
            connect(key=None, password_env="FLEET_PASSWORD").connect()
        assert sshd.accepted == 0

    def test_a_server_that_takes_no_password(self, connect: Connect, monkeypatch: Any) -> None:
        monkeypatch.setenv("FLEET_PASSWORD", PASSWORD)
        with pytest.raises(AuthError, match=r"tried the password in FLEET_PASSWORD \(it takes publickey only\)"):
            connect(key=None, password_env="FLEET_PASSWORD").connect()

    def test_default_keys_are_tried_and_locked_ones_named(self, connect: Connect, home: Path, new_key: Any) -> None:
        (home / ".ssh" / "id_ed25519").write_text(new_key("secret")[0])
        (home / ".ssh" / "id_rsa").write_text(new_key()[0])
        with pytest.raises(AuthError) as failure:
            connect(key=None).connect()
        tried = "tried not ~/.ssh/id_ed25519, which is protected by a passphrase, key ~/.ssh/id_rsa"
        assert tried in str(failure.value)
        (home / ".ssh" / "good").rename(home / ".ssh" / "id_ecdsa")
        assert connect(key=None).run(("true",)).ok

    @pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="ssh-agent is not installed")
    def test_an_agent_opens_what_a_passphrase_locks(
        self, connect: Connect, home: Path, monkeypatch: Any, tmp_path: Path, eventually: Any
    ) -> None:
        good = home / ".ssh" / "good"
        good.chmod(0o600)
        socket_file = tmp_path / "agent"
        with subprocess.Popen(["ssh-agent", "-D", "-a", socket_file], stdout=subprocess.DEVNULL) as agent:
            try:
                assert eventually(socket_file.exists)
                monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_file))
                subprocess.run(["ssh-add", "-q", good], check=True)
                good.unlink()
                assert connect(key=None).run(("true",)).ok
            finally:
                agent.terminate()

    def test_nothing_to_try(self, connect: Connect) -> None:
        with pytest.raises(AuthError, match="there was no key, agent or password to try"):
            connect(key=None).connect()


class TestNetwork:
    def test_a_port_where_nobody_listens(self, connect: Connect) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(TransportError, match=rf"127.0.0.1:{port} refused the connection") as failure:
            connect(port=port).connect()
        assert failure.value.exit_code == 3

    def test_a_name_that_does_not_resolve(self, home: Path) -> None:
        (home / ".ssh" / "known_hosts").touch()
        node = SshTransport("node-9", "no-such-host.invalid", Access())
        with pytest.raises(TransportError, match=r'node-9: "no-such-host.invalid" cannot be resolved'):
            node.connect()

    @pytest.mark.parametrize("host", ["a..b", "x" * 70, "bad host"])
    def test_a_name_that_is_none(self, host: str) -> None:
        with pytest.raises((TransportError, InputError)):
            SshTransport("node-9", host, Access()).connect()

    def test_a_server_that_accepts_and_stays_silent(self, connect: Connect, silent: int) -> None:
        with pytest.raises(DeadlineError, match=r"no SSH server answered within 0.3 s"):
            connect(port=silent, connect_timeout=0.3).connect()

    def test_something_else_listens_there(self, connect: Connect, talk: Callable[[bytes], int]) -> None:
        port = talk(b"HTTP/1.1 400 Bad Request\r\n" * 200)
        with pytest.raises(TransportError, match="answers, but not as an SSH server"):
            connect(port=port).connect()

    def test_a_server_that_hangs_up_at_once_is_tried_three_times(self, connect: Connect, sshd: Any) -> None:
        sshd.drop_first = 1000
        with pytest.raises(TransportError, match=r"dropped the connection before the login.*\(3 attempts\)"):
            connect().connect()
        assert sshd.accepted == 3

    def test_a_burst_that_the_server_drops_in_part(self, connect: Connect, sshd: Any) -> None:
        sshd.drop_first = 2
        nodes = [connect() for _ in range(8)]
        threads = [threading.Thread(target=node.connect) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert [node.run(("echo", str(n))).stdout for n, node in enumerate(nodes)] == [f"{n}\n" for n in range(8)]

    def test_nothing_is_printed_on_the_way(self, sshd: Any) -> None:
        sshd.drop_first = 1000
        code = (
            "import sys; from llmfleet.launch.transport.ssh import SshTransport\n"
            "from llmfleet.planner.errors import TransportError; from llmfleet.planner.inventory.model import Access\n"
            "try: SshTransport('n', '127.0.0.1', Access(port=int(sys.argv[1]))).connect()\n"
            "except TransportError as error: print(error.exit_code)"
        )
        argv = [sys.executable, "-c", code, str(sshd.port)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.stderr) == ("3\n", "")


class TestSshConfig:
    def write(self, home: Path, text: str) -> None:
        (home / ".ssh" / "config").write_text(text)

    def test_name_user_port_and_key_come_from_it(self, sshd: Any, home: Path) -> None:
        (home / ".ssh" / "conf.d").mkdir()
        (home / ".ssh" / "conf.d" / "gpu").write_text(f"Host gpu-*\n  Port {sshd.port}\n  IdentityFile ~/.ssh/good\n")
        self.write(home, "Include conf.d/*\nUser carol\nHost gpu-7\n  HostName 127.0.0.1\nHost *\n  User nobody\n")
        node = SshTransport("gpu-7", "gpu-7", Access())
        assert node.run(("true",)).ok
        assert sshd.logins[-1] == "carol key yes"
        node.close()

    def test_the_inventory_wins(self, sshd: Any, home: Path) -> None:
        self.write(home, "Host 127.0.0.1\n  User carol\n  Port 1\n  ConnectTimeout 3\n  IdentityFile ~/.ssh/none\n")
        node = SshTransport("n", "127.0.0.1", Access(user="ops", port=sshd.port, key="~/.ssh/good"))
        assert node.run(("true",)).ok
        assert sshd.logins == ["ops key yes"]
        node.close()

    def test_a_proxy_command_is_refused(self, home: Path) -> None:
        self.write(home, "Host n\n  ProxyCommand nc %h %p\n")
        with pytest.raises(InputError, match="ProxyCommand, which llmfleet does not run"):
            SshTransport("n", "n", Access())

    @pytest.mark.parametrize("text", ["Match nonsense\n", "Port many\n", "Host n\n  Port\n"])
    def test_mistakes_are_bad_input(self, home: Path, text: str) -> None:
        self.write(home, text)
        with pytest.raises(InputError, match="ssh_config"):
            SshTransport("n", "n", Access())

    def test_a_file_that_includes_itself_ends(self, home: Path) -> None:
        self.write(home, "Include config\nHost n\n  HostName 127.0.0.1\n")
        assert SshTransport("n", "n", Access())._link.host == "127.0.0.1"

    def test_user_given_twice(self) -> None:
        with pytest.raises(InputError, match="no SSH address"):
            SshTransport("n", "a@b", Access(user="c"))


@pytest.fixture
def talk() -> Iterator[Callable[[bytes], int]]:
    """Starts a server that says `words` to whoever connects, and nothing more; gives its port."""
    servers: list[socket.socket] = []

    def start(words: bytes) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=_talk, args=(server, words), daemon=True).start()
        port: int = server.getsockname()[1]
        return port

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _talk(server: socket.socket, words: bytes) -> None:
    clients = []
    try:
        while True:
            client, _ = server.accept()
            clients.append(client)
            client.sendall(words)
    except OSError:
        for client in clients:
            client.close()


@pytest.fixture
def silent(talk: Callable[[bytes], int]) -> int:
    return talk(b"")
