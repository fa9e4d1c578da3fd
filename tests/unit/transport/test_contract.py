"""What every transport does alike, tried over a real SSH connection and on this machine."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfleet.launch.transport import Transport
from llmfleet.launch.transport.local import LocalTransport
from llmfleet.planner.errors import CommandError, DeadlineError, InputError, TransportError

pytestmark = pytest.mark.live

HOSTILE = [
    "plain",
    "",
    " two  words ",
    "it's",
    'say "hi"',
    "$(touch /tmp/owned) `id` ${HOME} $HOME",
    "a\nb\n",
    "\\ \\n \\'",
    "-n",
    "*?[a-z]",
    "; rm -rf / & | > <",
    "!history",
    "~",
    "日本語 · émoji 🦙",
    "\t\r\x01\x7f",
    "#comment",
]


@pytest.fixture(params=["ssh", "openssh", "local"])
def node(request: pytest.FixtureRequest, home: Path) -> Transport:
    if request.param == "local":
        return LocalTransport("node-3")
    request.getfixturevalue("sshd").home = home
    transport: Transport = request.getfixturevalue("connect" if request.param == "ssh" else "connect_openssh")()
    return transport


def test_exit_codes_and_both_outputs(node: Transport) -> None:
    done = node.run(("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert (done.exit_code, done.stdout, done.stderr, done.ok) == (7, "out\n", "err\n", False)
    assert node.run(("true",)).ok
    missing = node.run(("no-such-command-here",))
    assert missing.exit_code == 127
    assert "not found" in missing.stderr


def test_hostile_words_arrive_unchanged(node: Transport) -> None:
    done = node.run(("printf", "%s\\0", *HOSTILE))
    assert done.stdout.split("\0")[:-1] == HOSTILE


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(
        st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20), max_size=4
    )
)
def test_any_words_arrive_unchanged(node: Transport, words: list[str]) -> None:
    done = node.run(("printf", "%s\\0", "first", *words))
    assert done.stdout.split("\0")[:-1] == ["first", *words]


def test_file_names_that_are_not_utf8_keep_their_bytes(node: Transport) -> None:
    done = node.run(("sh", "-c", 'printf %s "$1" | od -An -tx1', "sh", b"\xff\xfe".decode("utf-8", "surrogateescape")))
    assert done.stdout.split() == ["ff", "fe"]


@pytest.mark.parametrize("argv", [(), ("",), ("echo", "a\0b"), ("echo", "\ud800")])
def test_a_command_that_cannot_exist_is_bad_input(node: Transport, argv: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        node.run(argv)


def test_a_megabyte_of_stdin_and_back(node: Transport) -> None:
    text = "".join(f"{n:07d}\n" for n in range(150_000))
    assert len(text) > 1_000_000
    done = node.run(("cat",), stdin=text)
    assert done.stdout == text


def test_stdin_is_at_its_end_when_there_is_none(node: Transport) -> None:
    assert node.run(("cat",)).stdout == ""


def test_stdin_that_nobody_reads_is_no_error(node: Transport) -> None:
    assert node.run(("true",), stdin="x" * 5_000_000).ok


def test_much_output_on_both_channels(node: Transport) -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' e >&2; head -c 3000000 /dev/zero | tr '\\0' o"
    done = node.run(("sh", "-c", script))
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


def test_bytes_that_are_no_text_are_replaced(node: Transport) -> None:
    assert node.run(("printf", "a\\377b")).stdout == "a\ufffdb"


def test_a_deadline_also_holds_while_output_flows(node: Transport) -> None:
    with pytest.raises(DeadlineError):
        node.run(("sh", "-c", "while :; do echo x; sleep 0.05; done"), timeout=0.5)


def test_streams_give_lines_as_they_come(node: Transport) -> None:
    stream = node.stream(("sh", "-c", "echo ready; while read line; do echo got $line; done; echo bye >&2; printf end"))
    lines = stream.lines()
    assert next(lines) == "ready"
    stream.write("one\ntwo\n")
    assert [next(lines), next(lines)] == ["got one", "got two"]
    assert node.run(("echo", "beside it")).ok
    stream.close()
    assert set(lines) <= {"end"}, "what the command says after its input has ended may come or not"
    with pytest.raises(TransportError):
        stream.write("more\n")


def test_closing_a_stream_is_end_of_file_for_the_command(node: Transport, tmp_path: Path, eventually: Any) -> None:
    trace = tmp_path / "trace"
    stream = node.stream(("sh", "-c", f"echo ready; cat >/dev/null; echo over > {trace}"))
    assert next(stream.lines()) == "ready"
    stream.close()
    assert eventually(lambda: trace.exists() and trace.read_text() == "over\n")


def test_a_stream_ends_with_its_command(node: Transport) -> None:
    with closing(node.stream(("printf", "a\\nb\\nlast"))) as stream:
        assert list(stream.lines()) == ["a", "b", "last"]


def test_a_stream_of_errors_does_not_stall(node: Transport) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/zero >&2; echo $i; done"
    with closing(node.stream(("sh", "-c", script))) as stream:
        assert list(stream.lines()) == list("12345678")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestFiles:
    def test_put_then_get(self, node: Transport, home: Path) -> None:
        data = os.urandom(300_000)
        node.put(data, "~/deep/er/file", mode=0o640)
        assert node.get("~/deep/er/file") == node.get(f"{home}/deep/er/file") == data
        assert stat.S_IMODE((home / "deep/er/file").stat().st_mode) == 0o640
        assert stat.S_IMODE((home / "deep").stat().st_mode) == 0o700
        assert names(home / "deep/er") == ["file"]

    def test_what_is_not_there_is_none(self, node: Transport) -> None:
        assert node.get("~/nothing/at/all") is None

    def test_an_empty_file_is_not_none(self, node: Transport) -> None:
        node.put(b"", "~/empty")
        assert node.get("~/empty") == b""

    def test_a_file_is_replaced_and_not_written_into(self, node: Transport, home: Path) -> None:
        node.put(b"old", "~/file")
        with (home / "file").open("rb") as reader:
            node.put(b"new!", "~/file")
            assert reader.read() == b"old"
        assert (home / "file").read_bytes() == b"new!"
        assert stat.S_IMODE((home / "file").stat().st_mode) == 0o600

    def test_names_are_taken_as_they_are(self, node: Transport, home: Path) -> None:
        node.put(b"x", "~/a b'$(id)\n.é")
        assert (home / "a b'$(id)\n.é").read_bytes() == b"x"

    def test_a_place_that_cannot_be_written_leaves_nothing_behind(self, node: Transport, home: Path) -> None:
        (home / "folder").mkdir()
        with pytest.raises(CommandError, match=r"node-3: .*folder cannot be written"):
            node.put(b"x", "~/folder")
        (home / "plain").write_text("")
        with pytest.raises(CommandError, match="cannot be written"):
            node.put(b"x", "~/plain/below")
        assert names(home) == [".ssh", "folder", "plain"]

    def test_a_folder_is_no_file(self, node: Transport, home: Path) -> None:
        (home / "folder").mkdir()
        with pytest.raises(CommandError, match="cannot be read"):
            node.get("~/folder")

    def test_a_large_file_tells_its_progress(self, node: Transport, home: Path, tmp_path: Path) -> None:
        source = tmp_path / "weights"
        source.write_bytes(os.urandom(3_000_000))
        told: list[int] = []
        node.put_file(source, "~/models/weights", mode=0o644, progress=told.append)
        assert (home / "models/weights").read_bytes() == source.read_bytes()
        assert told == sorted(told)
        assert told[-1] == 3_000_000
        assert len(told) > 1

    def test_a_source_that_is_missing_is_bad_input(self, node: Transport, home: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            node.put_file(tmp_path / "none", "~/x")
        assert names(home) == [".ssh"]

    def test_home(self, node: Transport, home: Path) -> None:
        assert node.home() == str(home)
