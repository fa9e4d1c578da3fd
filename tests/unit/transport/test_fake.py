"""The fake transport, and which transport an inventory gets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmfleet.launch.transport import Completed, open_transport
from llmfleet.launch.transport.fake import FakeTransport
from llmfleet.launch.transport.local import LocalTransport
from llmfleet.launch.transport.ssh import SshTransport
from llmfleet.planner.errors import InputError, TransportError
from llmfleet.planner.inventory.model import Access, Node


def test_what_it_was_not_told_is_not_found() -> None:
    node = FakeTransport("n")
    done = node.run(("nvidia-smi", "-L"))
    assert (done.exit_code, done.stderr) == (127, "nvidia-smi: command not found\n")
    assert node.commands == [("nvidia-smi", "-L")]


def test_replies_by_beginning_and_by_expression() -> None:
    node = FakeTransport("n").reply(("ls",), "any").reply(("ls", "-1"), "one\n").reply(re.compile(r"a b'$"), "quoted")
    assert node.run(("ls",)).stdout == "any"
    assert node.run(("ls", "-1", "/x")).stdout == "one\n"
    assert node.run(("cat", "a b")).stdout == "quoted"
    node.reply("^ls", exit_code=2, stderr="gone")
    assert node.run(("ls", "-1")) == Completed(("ls", "-1"), 2, "", "gone")


def test_handlers_see_input() -> None:
    node = FakeTransport("n").handle("cat", lambda argv, stdin: Completed(argv, 0, stdin or "", ""))
    assert node.run(("cat",), stdin="hello").stdout == "hello"
    assert node.inputs == ["hello"]


def test_errors_of_one_command_and_of_the_whole_node() -> None:
    node = FakeTransport("n").reply("reboot", error=TransportError("lost", node="n"))
    with pytest.raises(TransportError, match="lost"):
        node.run(("reboot",))
    dead = FakeTransport("n", error=TransportError("no route", node="n"))
    for use in (dead.connect, dead.home, lambda: dead.run(("ls",)), lambda: dead.get("x"), lambda: dead.put(b"", "x")):
        with pytest.raises(TransportError, match="no route"):
            use()


def test_files_live_in_memory(tmp_path: Path) -> None:
    node = FakeTransport("n")
    assert node.get("~/x") is None
    node.put(b"data", "~/x", mode=0o644)
    assert node.get("/home/fake/x") == b"data"
    assert node.modes == {"/home/fake/x": 0o644}
    (tmp_path / "source").write_bytes(b"12345")
    told: list[int] = []
    node.put_file(tmp_path / "source", "/y", progress=told.append)
    assert (node.files["/y"], told) == (b"12345", [5])
    with pytest.raises(InputError):
        node.put_file(tmp_path / "none", "/z")


def test_streams_play_back() -> None:
    node = FakeTransport("n").reply("tail", "one\ntwo\n")
    stream = node.stream(("tail", "-f", "log"))
    assert list(stream.lines()) == ["one", "two"]
    stream.write("x")
    stream.close()
    assert stream.written == "x"
    with pytest.raises(TransportError):
        stream.write("y")


def test_the_same_commands_are_refused_as_everywhere() -> None:
    with pytest.raises(InputError):
        FakeTransport("n").run(("echo", "a\0b"))


@pytest.mark.parametrize(("name", "kind"), [("ssh", SshTransport), ("local", LocalTransport), ("fake", FakeTransport)])
def test_the_inventory_chooses(name: str, kind: type) -> None:
    access = Access.model_validate({"transport": name})
    transport = open_transport(Node(name="n", host="10.0.0.1", access=access))
    assert isinstance(transport, kind)
    assert transport.node == "n"


def test_ssh_libraries_are_imported_only_for_ssh() -> None:
    code = """
import sys
from llmfleet.launch.transport import open_transport
from llmfleet.planner.inventory.model import Access, Node
for kind in ("local", "fake"):
    open_transport(Node(name="n", host="h", access=Access(transport=kind)))
print(sorted({"paramiko", "fabric", "invoke", "cryptography"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
