"""Faults of a node, each blamed on what it is: a full disk, an SSH server that is away for a while, a cut copy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_sshd import SSHD, RealSshd, keygen

from llmfleet.launch.events import Event, Note
from llmfleet.launch.fleet import Fleet
from llmfleet.launch.phases.connect import PATIENCE_S
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.session import Session
from llmfleet.launch.transport import Transport, open_transport
from llmfleet.planner.errors import AuthError, CommandError, HostKeyError, TransportError
from llmfleet.planner.inventory.model import Access, Node
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.plan import Plan, RouterPlan

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="needs sshd and ssh of OpenSSH"),
]
Reach = Callable[[str], Transport]
both = pytest.mark.parametrize("kind", ["ssh", "openssh"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealSshd]:
    sshd = RealSshd(tmp_path / "sshd")
    (tmp_path / "known").write_text(sshd.known_hosts_line())
    yield sshd
    sshd.stop()


@pytest.fixture
def reach(server: RealSshd, tmp_path: Path) -> Iterator[Reach]:
    made: list[Transport] = []

    def build(kind: str) -> Transport:
        keys = {"transport": kind, "user": server.user, "port": server.port, "key": str(server.key)}
        access = Access.model_validate({**keys, "known_hosts": str(tmp_path / "known")})
        made.append(open_transport(Node(name="n1", host="127.0.0.1", access=access)))
        return made[-1]

    yield build
    for transport in made:
        transport.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@both
def test_a_full_disk_is_named_and_leaves_no_part(
    server: RealSshd, reach: Reach, small_disk: Path, tmp_path: Path, kind: str
) -> None:
    server.start()
    node = reach(kind)
    with pytest.raises(CommandError, match=r"disk/file cannot be written: No space left on device") as full:
        node.put(os.urandom(2 << 20), f"{small_disk}/file")
    assert "larger" in full.value.hint
    assert list(small_disk.iterdir()) == []
    (tmp_path / "weights").write_bytes(os.urandom(2 << 20))
    with pytest.raises(CommandError, match="No space left on device"):
        node.put_file(tmp_path / "weights", f"{small_disk}/weights", resume="0123")
    assert [p.name for p in small_disk.iterdir()] == ["weights.0123.part"], "kept, to be gone on with"


@both
def test_a_copy_that_was_cut_is_gone_on_with(server: RealSshd, reach: Reach, tmp_path: Path, kind: str) -> None:
    server.start()
    whole = os.urandom(3 << 20)
    (tmp_path / "weights").write_bytes(whole)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "w.abc.part").write_bytes(whole[: 1 << 20])
    sent: list[int] = []
    reach(kind).put_file(tmp_path / "weights", f"{tmp_path}/there/w", progress=sent.append, resume="abc")
    assert (tmp_path / "there" / "w").read_bytes() == whole
    assert min(sent) > 1 << 20, "it began where the first attempt had ended"


def session_of(server: RealSshd, tmp_path: Path, kind: str, observe: Callable[[Event], None], **access: str) -> Session:
    keys = {"transport": kind, "user": server.user, "port": server.port, "key": str(server.key), **access}
    body = {
        "cluster": "patient", "access": {**keys, "known_hosts": str(tmp_path / "known")},
        "nodes": [{"name": "n1", "host": "127.0.0.1"}],
    }  # fmt: skip
    plan = Plan("patient", "n1", (), (), RouterPlan("n1", "127.0.0.1", 8080, 9901))
    fleet = Fleet(parse(json.dumps(body | {"services": []}), nodes_only=True), plan, tmp_path / ".llmfleet", observe)
    return Session(fleet, StateStore(fleet.folder, "patient"))


@both
def test_up_waits_for_a_server_that_refuses_for_a_while_and_says_so(
    server: RealSshd, tmp_path: Path, kind: str
) -> None:
    said: list[str] = []

    def observe(event: Event) -> None:
        """The server is back as soon as it was said that it is away."""
        if isinstance(event, Note):
            said.append(f"{event.node}: {event.text}")
            if "trying for" in event.text:
                server.start()

    session = session_of(server, tmp_path, kind, observe)
    (outcome,) = session.connect(session.fleet.inventory.nodes, patience_s=PATIENCE_S)
    session.close()
    assert outcome.ok and session.lost == {}
    assert "refused" in said[0] and "n1: " in said[0]
    assert said[1:] == ["n1: it answers again"]


@both
@pytest.mark.parametrize("wrong", ["host key", "login"])
def test_what_does_not_heal_is_not_waited_for(server: RealSshd, tmp_path: Path, kind: str, wrong: str) -> None:
    server.start()
    keygen("-t", "ed25519", "-N", "", "-f", str(tmp_path / "other"))
    if wrong == "host key":
        public = (tmp_path / "other.pub").read_text().split()[:2]
        (tmp_path / "known").write_text(" ".join([server.name, *public]) + "\n")
    said: list[Event] = []
    access = {"key": str(tmp_path / "other")} if wrong == "login" else {}
    session = session_of(server, tmp_path, kind, said.append, **access)
    (outcome,) = session.connect(session.fleet.inventory.nodes, patience_s=PATIENCE_S)
    assert isinstance(outcome.error, HostKeyError if wrong == "host key" else AuthError)
    assert said == []


@both
def test_a_server_that_stays_away_is_blamed_when_patience_ends(server: RealSshd, tmp_path: Path, kind: str) -> None:
    said: list[Event] = []
    session = session_of(server, tmp_path, kind, said.append)
    (outcome,) = session.connect(session.fleet.inventory.nodes, patience_s=0.1)
    assert isinstance(outcome.error, TransportError)
    assert "refused" in outcome.error.message and "does sshd run there" in outcome.error.hint.lower()
    assert session.lost == {"n1": outcome.error}
    assert len(said) == 1


@both
def test_a_server_that_is_away_for_a_while(server: RealSshd, reach: Reach, kind: str) -> None:
    node = reach(kind)
    with pytest.raises(TransportError, match="refused") as away:
        node.connect()
    assert away.value.hint == "Does sshd run there, on that port?"
    server.start()
    assert node.run(("echo", "back")).stdout == "back\n"
