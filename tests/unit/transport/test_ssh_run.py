"""Commands over a real SSH connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmfleet.launch.transport.ssh import SshTransport
from llmfleet.planner.errors import DeadlineError, TransportError

pytestmark = pytest.mark.live

Connect = Callable[..., SshTransport]


def test_a_signal_is_a_negative_exit_code(connect: Connect) -> None:
    node = connect()
    assert node.run(("sh", "-c", "kill -9 $$")).exit_code == -1
    assert node.run(("true",)).ok


def test_a_deadline_ends_the_wait_and_leaves_the_connection_usable(connect: Connect) -> None:
    node = connect()
    with pytest.raises(DeadlineError, match=r"node-3: `sleep 60` did not end within 0\.3 s"):
        node.run(("sleep", "60"), timeout=0.3)
    assert node.run(("echo", "still here")).stdout == "still here\n"


def test_a_server_that_dies_in_the_middle(connect: Connect, sshd: Any, eventually: Any) -> None:
    node = connect()
    started = sshd.home / "started"
    threading.Thread(target=lambda: eventually(started.exists) and sshd.hang_up()).start()
    with pytest.raises(TransportError, match=r"the connection was lost while `sh -c .* ran") as failure:
        node.run(("sh", "-c", f"touch {started}; sleep 60"))
    assert failure.value.exit_code == 3
    assert node.run(("echo", "again")).stdout == "again\n"  # by a new connection


def test_a_connection_that_died_unnoticed_is_opened_again(connect: Connect, sshd: Any) -> None:
    node = connect()
    node.put(b"one", str(sshd.home / "file"))
    sshd.hang_up()
    assert node.run(("echo", "again")).stdout == "again\n"
    sshd.hang_up()
    assert node.get(str(sshd.home / "file")) == b"one"


def test_a_server_that_never_starts_the_command(connect: Connect, sshd: Any) -> None:
    sshd.executes.clear()
    with pytest.raises(DeadlineError, match=r"`true` did not end within 0\.3 s"):
        connect().run(("true",), timeout=0.3)


def test_too_many_sessions_say_which_setting_to_raise(connect: Connect, sshd: Any) -> None:
    sshd.max_sessions = 1
    node = connect()
    stream = node.stream(("cat",))
    with pytest.raises(TransportError, match="MaxSessions"):
        node.run(("true",))
    stream.close()


def test_a_stream_tells_that_its_connection_was_lost(connect: Connect, sshd: Any) -> None:
    stream = connect().stream(("sh", "-c", "echo ready; sleep 60"))
    lines = stream.lines()
    assert next(lines) == "ready"
    sshd.hang_up()
    with pytest.raises(TransportError, match="no longer connected"):
        list(lines)
