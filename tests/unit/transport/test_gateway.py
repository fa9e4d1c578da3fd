"""Nodes behind jump hosts: the whole way verified, the jump host logged in to once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.pool import on_each
from llmfleet.launch.transport import Transport, open_transport
from llmfleet.planner.errors import AuthError, HostKeyError, TransportError
from llmfleet.planner.inventory.model import Access, Node

pytestmark = pytest.mark.live


@pytest.fixture
def bastion(start_sshd: Callable[[], Any], sshd: Any, home: Path) -> Any:
    """A second server, known to us and knowing our key."""
    server = start_sshd()
    server.authorized = sshd.authorized
    with (home / ".ssh" / "known_hosts").open("a") as file:
        file.write(server.known_hosts_line())
    return server


@pytest.fixture
def reach(sshd: Any, home: Path) -> Iterator[Callable[..., Transport]]:
    made: list[Transport] = []

    def build(jump: str | None = None, **access: Any) -> Transport:
        settings = {"user": "ops", "port": sshd.port, "key": "~/.ssh/good", "jump": jump, **access}
        made.append(open_transport(Node(name="node-3", host="127.0.0.1", access=Access(**settings))))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


def test_many_nodes_share_one_login_at_the_jump_host(reach: Callable[..., Transport], bastion: Any, sshd: Any) -> None:
    nodes = [reach(f"hop@localhost:{bastion.port}") for _ in range(12)]
    trust(bastion, "localhost")
    outcomes = on_each(list(enumerate(nodes)), lambda item: item[1].run(("echo", str(item[0]))).stdout)
    assert [o.value for o in outcomes] == [f"{n}\n" for n in range(12)]
    assert bastion.logins == ["hop key yes"]
    assert sshd.logins == ["ops key yes"] * 12


def test_the_connection_to_the_jump_host_ends_with_its_last_user(
    reach: Callable[..., Transport], bastion: Any, eventually: Any
) -> None:
    trust(bastion, "localhost")
    first, second = reach(f"localhost:{bastion.port}"), reach(f"localhost:{bastion.port}")
    assert first.run(("true",)).ok
    assert second.run(("true",)).ok
    first.close()
    first.close()
    assert bastion.connections[0].is_active()
    assert second.run(("true",)).ok
    second.close()
    assert eventually(lambda: not bastion.connections[0].is_active())
    assert first.run(("true",)).ok  # and is opened again when needed


def test_a_jump_host_that_went_away_meanwhile_is_logged_in_to_again(
    reach: Callable[..., Transport], bastion: Any
) -> None:
    trust(bastion, "localhost")
    first, second = reach(f"localhost:{bastion.port}"), reach(f"localhost:{bastion.port}")
    assert first.run(("true",)).ok
    bastion.hang_up()
    assert second.run(("true",)).ok
    assert first.run(("true",)).ok
    assert bastion.accepted == 2


def test_the_jump_host_is_verified(reach: Callable[..., Transport], bastion: Any, sshd: Any) -> None:
    with pytest.raises(HostKeyError) as failure:
        reach(f"localhost:{bastion.port}").connect()
    where = f"localhost:{bastion.port}"
    assert f"node-3: by way of {where}: its host key is not in ~/.ssh/known_hosts" in str(failure.value)
    assert bastion.logins == sshd.logins == []


def test_the_node_behind_it_is_verified_too(reach: Callable[..., Transport], bastion: Any, sshd: Any) -> None:
    known = Path.home() / ".ssh" / "known_hosts"
    known.write_text(bastion.known_hosts_line(name=f"[localhost]:{bastion.port}"))
    with pytest.raises(HostKeyError) as failure:
        reach(f"localhost:{bastion.port}").connect()
    assert f"ssh ssh://localhost:{bastion.port} ssh-keyscan -p {sshd.port} -t ed25519 127.0.0.1" in failure.value.hint
    assert sshd.logins == []


def test_a_jump_host_that_refuses_us(reach: Callable[..., Transport], bastion: Any) -> None:
    trust(bastion, "localhost")
    bastion.authorized = []
    with pytest.raises(AuthError, match=r'node-3: by way of localhost:\d+: it refused user "ops"'):
        reach(f"localhost:{bastion.port}").connect()


def test_a_jump_host_that_is_away_is_not_asked_by_every_node(reach: Callable[..., Transport], bastion: Any) -> None:
    bastion.drop_first = 1000
    nodes = [reach(f"127.0.0.1:{bastion.port}", connect_timeout=1.5) for _ in range(6)]
    outcomes = on_each(nodes, lambda node: node.connect())
    assert all(isinstance(o.error, TransportError) and "by way of" in str(o.error) for o in outcomes)
    assert bastion.accepted == 3  # one series of attempts for all


def test_a_jump_host_that_forwards_nothing(reach: Callable[..., Transport], bastion: Any) -> None:
    trust(bastion, "localhost")
    bastion.forwards = False
    with pytest.raises(TransportError, match="does not let us on") as failure:
        reach(f"localhost:{bastion.port}").connect()
    assert "AllowTcpForwarding" in failure.value.hint


def test_a_node_that_the_jump_host_cannot_reach(reach: Callable[..., Transport], bastion: Any) -> None:
    trust(bastion, "localhost")
    with pytest.raises(TransportError, match=r"it cannot connect to 127.0.0.1:1\b"):
        reach(f"localhost:{bastion.port}", port=1).connect()


def test_proxy_jump_of_ssh_config(reach: Callable[..., Transport], bastion: Any, sshd: Any, home: Path) -> None:
    trust(bastion, "gate")
    trust(bastion, "localhost")
    (home / ".ssh" / "config").write_text(
        f"Host gate\n  HostName localhost\n  User keeper\n  Port {bastion.port}\nHost 127.0.0.1\n  ProxyJump gate\n"
    )
    assert reach().run(("true",)).ok
    assert (bastion.logins, sshd.logins) == (["keeper key yes"], ["ops key yes"])


def test_a_chain_of_two(
    reach: Callable[..., Transport], bastion: Any, start_sshd: Callable[[], Any], sshd: Any, home: Path
) -> None:
    outer = start_sshd()
    outer.authorized = sshd.authorized
    trust(bastion, "localhost")
    trust(outer, "localhost")
    chain = f"one@localhost:{outer.port},two@localhost:{bastion.port}"
    (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n  ProxyJump {chain}\n")
    assert reach().run(("true",)).ok
    assert (outer.logins, bastion.logins, sshd.logins) == (["one key yes"], ["two key yes"], ["ops key yes"])


def test_a_jump_host_is_not_its_own_jump_host(sshd: Any, home: Path) -> None:
    (home / ".ssh" / "config").write_text(f"Host *\n  Port {sshd.port}\n  ProxyJump 127.0.0.1\n")
    access = Access(user="ops", port=sshd.port, key="~/.ssh/good")
    transport = open_transport(Node(name="gate", host="127.0.0.1", access=access))
    assert transport.run(("true",)).ok
    transport.close()


def trust(server: Any, name: str) -> None:
    with (Path.home() / ".ssh" / "known_hosts").open("a") as file:
        file.write(server.known_hosts_line(name=f"[{name}]:{server.port}"))
