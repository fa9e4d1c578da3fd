"""Both SSH transports against OpenSSH's own server: login shells that talk, certificates, host keys of every kind."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from real_sshd import SSHD, RealSshd, keygen

from llmfleet.launch.nodes.facts import facts_command, facts_request, facts_script, parse_facts
from llmfleet.launch.transport import Transport, open_transport
from llmfleet.planner.errors import HostKeyError, TransportError
from llmfleet.planner.inventory.model import Access, Node

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="needs sshd and ssh of OpenSSH"),
]
Reach = Callable[..., Transport]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealSshd]:
    """Its users' home folder is `there`: a bash that sshd starts reads .bashrc there."""
    there = tmp_path / "there"
    there.mkdir()
    sshd = RealSshd(tmp_path / "sshd", f'SetEnv "HOME={there}"').start()
    (tmp_path / "known").write_text(sshd.known_hosts_line())
    yield sshd
    sshd.stop()


@pytest.fixture
def reach(server: RealSshd, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Reach]:
    made: list[Transport] = []

    def build(kind: str, **access: Any) -> Transport:
        settings = {"user": server.user, "port": server.port, "key": str(server.key), "transport": kind}
        known = {"known_hosts": str(tmp_path / "known")}
        node = Node(name="node-3", host="127.0.0.1", access=Access.model_validate({**settings, **known, **access}))
        made.append(open_transport(node))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


both = pytest.mark.parametrize("kind", ["ssh", "openssh"])


BASH = pwd.getpwuid(os.getuid()).pw_shell.endswith("bash")
in_bash = pytest.mark.skipif(not BASH, reason="these tests write a start-up file of bash")


@both
@in_bash
@pytest.mark.parametrize(
    "profile",
    [
        "echo 'Welcome to the cluster!'",
        "printf 'no newline at the end'",
        "echo 'unauthorised use is forbidden' >&2",
        "printf 'llmfleet:0123456789abcdef\\n{\"home\": 1}\\n/not/home'; printf ouch >&2",
        "trap 'echo bye; echo bye >&2' EXIT; echo hello",
    ],
)
def test_a_login_shell_that_talks_changes_nothing(
    server: RealSshd, reach: Reach, tmp_path: Path, kind: str, profile: str
) -> None:
    there = tmp_path / "there"
    (there / ".bashrc").write_text(profile + "\n")
    raw = ("ssh", "-F", "none", "-i", str(server.key), "-o", f"UserKnownHostsFile={tmp_path}/known")
    plain = subprocess.run([*raw, "-p", str(server.port), f"{server.user}@127.0.0.1", "true"], capture_output=True)
    assert plain.stdout + plain.stderr, "otherwise this tests nothing"
    node = reach(kind)
    assert node.home() == str(there)
    done = node.run(("sh", "-c", "echo out; echo err >&2; exit 3"))
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    with closing(node.stream(("printf", "a\\nb\\n"))) as stream:
        assert list(stream.lines()) == ["a", "b"]
    node.put(b"\0\xff data", "~/deep/file")
    assert node.get("~/deep/file") == b"\0\xff data"
    assert node.get("~/none") is None
    answer = node.run(facts_command("python3", facts_request(paths=["/"])), stdin=facts_script(), timeout=60)
    assert json.loads(answer.stdout)["home"] == str(there)
    assert parse_facts(answer.stdout).python


@both
@in_bash
def test_a_shell_that_runs_nothing_is_named(server: RealSshd, reach: Reach, tmp_path: Path, kind: str) -> None:
    (tmp_path / "there" / ".bashrc").write_text("echo 'This account is currently not available.'; exit 1\n")
    with pytest.raises(TransportError, match=r"did not run `true`, it said: This account is currently not available"):
        reach(kind).run(("true",))


@both
def test_a_key_that_known_hosts_lacks_is_refused(reach: Reach, tmp_path: Path, kind: str) -> None:
    (tmp_path / "known").write_text("")
    with pytest.raises(HostKeyError, match="host key is not in") as refused:
        reach(kind).connect()
    assert "llmfleet trust node-3" in refused.value.hint


@both
def test_a_changed_key_is_refused(server: RealSshd, reach: Reach, tmp_path: Path, kind: str) -> None:
    other = " ".join((server.folder / "client.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"{server.name} {other}\n")
    with pytest.raises(HostKeyError, match="its host key changed") as refused:
        reach(kind).connect()
    assert "known:1" in refused.value.message


@both
def test_a_revoked_key_is_refused(server: RealSshd, reach: Reach, tmp_path: Path, kind: str) -> None:
    (tmp_path / "known").write_text(f"@revoked * {server.public}\n{server.known_hosts_line()}")
    with pytest.raises(HostKeyError, match="revokes"):
        reach(kind).connect()


@both
def test_hashed_names_and_lines_of_authorities_beside_them(
    server: RealSshd, reach: Reach, tmp_path: Path, kind: str
) -> None:
    known = tmp_path / "known"
    known.write_text(f"# ours\n@cert-authority *.example {server.public}\n{server.known_hosts_line()}")
    keygen("-H", "-f", str(known))
    assert server.name not in known.read_text()
    assert reach(kind).run(("echo", "in")).stdout == "in\n"


def test_an_authority_vouches_for_a_host_and_for_a_user(tmp_path: Path, home: Path) -> None:
    """What only the openssh transport can: the server's key is in no file, and neither is the client's."""
    keygen("-t", "ed25519", "-N", "", "-f", str(tmp_path / "ca"))
    server = RealSshd(
        tmp_path / "sshd",
        f"HostCertificate {tmp_path}/sshd/host-cert.pub", f"TrustedUserCAKeys {tmp_path}/ca.pub",
    )
    keygen("-s", str(tmp_path / "ca"), "-I", "host", "-h", "-n", "127.0.0.1", str(server.folder / "host.pub"))
    keygen("-s", str(tmp_path / "ca"), "-I", "user", "-n", server.user, str(server.folder / "client.pub"))
    (server.folder / "authorized_keys").unlink()
    (home / ".ssh" / "hosts.d").mkdir()
    (home / ".ssh" / "config").write_text("Include hosts.d/*\n")
    (home / ".ssh" / "hosts.d" / "gpu").write_text(
        f"Host gpu\n  HostName 127.0.0.1\n  Port {server.port}\n  User {server.user}\n  IdentityFile {server.key}\n"
        f"  UserKnownHostsFile {tmp_path}/known\n"
    )
    authority = " ".join((tmp_path / "ca.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"@cert-authority * {authority}\n")
    server.start()
    try:
        with closing(open_transport(Node(name="n", host="gpu", access=Access(transport="openssh")))) as node:
            assert node.run(("echo", "in")).stdout == "in\n"
        pure = open_transport(Node(name="n", host="gpu", access=Access(known_hosts=str(tmp_path / "known"))))
        with closing(pure), pytest.raises(HostKeyError, match="transport: openssh"):
            pure.connect()
    finally:
        server.stop()


@both
def test_a_refused_login_is_told_at_once(server: RealSshd, reach: Reach, tmp_path: Path, kind: str) -> None:
    keygen("-t", "ed25519", "-N", "", "-f", str(tmp_path / "stranger"))
    with pytest.raises(TransportError, match=r"it refused user"):
        reach(kind, key=str(tmp_path / "stranger")).connect()


@both
def test_a_dead_server_is_a_lost_connection_and_a_new_one_is_found(server: RealSshd, reach: Reach, kind: str) -> None:
    node = reach(kind)
    assert node.run(("true",)).ok
    with pytest.raises(TransportError, match="the connection was lost while"):
        node.run(("sh", "-c", "kill -9 $PPID"))  # the session's sshd, and with it the connection
    assert node.run(("echo", "again")).stdout == "again\n"
