"""Locks that living processes hold: here by the kernel, on the head by a script that listens for signs of life."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.record import lock as lock_module
from llmfleet.launch.record.lock import HOLD_LOCK, FleetLock, Holder, fleet_lock
from llmfleet.launch.transport.fake import FakeTransport
from llmfleet.launch.transport.local import LocalTransport
from llmfleet.planner.errors import CommandError, DeadlineError, LockedError, StateError, TransportError

HOLDER = Holder("ops", "laptop", 4242, "up", "2026-01-02T03:04:05+00:00")


class TestHere:
    def test_one_at_a_time_and_the_holder_is_named(self, tmp_path: Path) -> None:
        with fleet_lock(tmp_path / "new", command="up") as held:
            held.check()
            with pytest.raises(LockedError) as failure, fleet_lock(tmp_path / "new", command="down"):
                pytest.fail("two at once")
        assert failure.value.exit_code == 4
        assert str(failure.value) == (
            f"{held.holder} works on this fleet\n"
            f"  → Wait for it, or end it (kill {os.getpid()}): the lock goes with the process."
        )
        assert "`llmfleet up` of " in failure.value.message
        with fleet_lock(tmp_path / "new", command="down"):
            pass

    def test_an_error_inside_frees_it(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), fleet_lock(tmp_path, command="up"):
            raise ZeroDivisionError
        with fleet_lock(tmp_path, command="up"):
            pass

    def test_a_killed_holder_blocks_nobody(self, tmp_path: Path) -> None:
        code = (
            "import sys, time, pathlib; from llmfleet.launch.record.lock import fleet_lock\n"
            "with fleet_lock(pathlib.Path(sys.argv[1]), command='up'): print('held', flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(LockedError, match=rf"process {other.pid},"), fleet_lock(tmp_path, command="up"):
                pytest.fail("two at once")
            other.kill()
        with fleet_lock(tmp_path, command="up"):
            pass

    def test_a_holder_that_wrote_nonsense(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "sleep", lambda _s: None)
        with fleet_lock(tmp_path, command="up"):
            (tmp_path / "lock").write_text("[1]")
            with pytest.raises(LockedError, match="another run works on this fleet"), fleet_lock(tmp_path, command="x"):
                pytest.fail("two at once")

    def test_a_place_that_cannot_hold_a_lock(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        failed = pytest.raises(StateError, match="cannot be locked")
        with failed as caught, fleet_lock(tmp_path / "file", command="up"):
            pytest.fail("locked")
        assert "a folder that you may write to" in caught.value.hint


class TestHead:
    """The head is this machine; each operator has an own folder, and thereby an own lock here."""

    @pytest.fixture
    def hold(self, tmp_path: Path) -> Callable[[str], Any]:
        def build(operator: str, python: str = sys.executable) -> Any:
            head = LocalTransport("head")
            where = {"head_dir": str(tmp_path / "head"), "python": python}
            return fleet_lock(tmp_path / operator, command=f"up-{operator}", head=head, **where)

        return build

    def test_one_at_a_time_and_the_holder_is_named(self, hold: Any) -> None:
        with hold("ann") as held:
            assert not held.lost
            with pytest.raises(LockedError) as failure, hold("bob"):
                pytest.fail("two at once")
            held.check()
        assert str(failure.value).startswith("head: `llmfleet up-ann` of ")
        assert "the lock is free in 30 s" in failure.value.hint

    def test_free_for_the_next_at_once(self, hold: Any) -> None:
        for operator in ("ann", "bob") * 5:
            assert self.can_hold(hold, operator)

    def test_a_run_that_was_killed_frees_it(self, tmp_path: Path, hold: Any, eventually: Any) -> None:
        code = (
            "import sys, time, pathlib; from llmfleet.launch.record.lock import fleet_lock\n"
            "from llmfleet.launch.transport.local import LocalTransport\n"
            "root = pathlib.Path(sys.argv[1]); head = LocalTransport('head')\n"
            "there = {'head_dir': str(root / 'head'), 'python': sys.executable}\n"
            "with fleet_lock(root / 'ann', command='up', head=head, **there):\n"
            "    print('held', flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            assert not self.can_hold(hold, "bob")
            other.kill()
        assert eventually(lambda: self.can_hold(hold, "bob"))

    def test_a_lost_channel_is_noticed(self, hold: Any, eventually: Any) -> None:
        with hold("ann") as held:
            os.killpg(held._head._stream._process.pid, signal.SIGKILL)
            assert eventually(lambda: held.lost)
            with pytest.raises(StateError, match="head: the lock on the head node was lost"):
                held.check()

    def test_silence_from_the_head_is_a_loss(self, hold: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any) -> None:
        monkeypatch.setattr(lock_module, "BEAT_S", 0.05)
        with hold("ann") as held:
            process = held._head._stream._process
            first = held._head._heard
            assert eventually(lambda: held._head._heard > first)  # it answers
            os.killpg(process.pid, signal.SIGSTOP)
            monkeypatch.setattr(lock_module, "LOST_AFTER_S", 0.3)
            monkeypatch.setattr(lock_module, "LET_GO_WITHIN_S", 0.1)
            assert eventually(lambda: held.lost)
            os.killpg(process.pid, signal.SIGCONT)

    def test_a_python_that_is_missing(self, hold: Any) -> None:
        with pytest.raises(CommandError, match=r"the lock could not be taken: .*no-such-python.* not found"):
            hold("ann", python="/no-such-python").__enter__()

    def test_a_head_that_never_answers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock_module, "ANSWER_WITHIN_S", 0.1)
        monkeypatch.setattr(lock_module, "LET_GO_WITHIN_S", 0.1)
        monkeypatch.setattr(lock_module, "_hold", lambda *_: LocalTransport("head").stream(("sleep", "60")))
        lock = FleetLock(tmp_path, "up")
        with pytest.raises(DeadlineError, match="head: it did not answer the request for the lock"):
            lock.hold_head(LocalTransport("head"), str(tmp_path), "python3")

    def test_a_chatty_shell_does_not_matter(self, tmp_path: Path) -> None:
        head = FakeTransport("head").reply("exec", "Welcome!\nheld\n")
        FleetLock(tmp_path, "up").hold_head(head, "~/.llmfleet", "python3")
        busy = FakeTransport("head").reply("exec", f"Welcome!\n{HOLDER.json()}\n")
        with pytest.raises(LockedError, match=r"`llmfleet up` of ops on laptop \(process 4242, since 2026"):
            FleetLock(tmp_path, "up").hold_head(busy, "~/.llmfleet", "python3")

    def test_a_head_that_cannot_be_reached(self, tmp_path: Path) -> None:
        head = FakeTransport("head", error=TransportError("no route", node="head"))
        with pytest.raises(TransportError, match="no route"), fleet_lock(tmp_path, command="up", head=head):
            pytest.fail("locked")
        with fleet_lock(tmp_path, command="up"):
            pass  # the lock here was given back

    @staticmethod
    def can_hold(hold: Any, operator: str) -> bool:
        try:
            with hold(operator):
                return True
        except LockedError:
            return False


class TestScript:
    def start(self, folder: Path, seconds: str = "30") -> subprocess.Popen[str]:
        argv = [sys.executable, HOLD_LOCK, folder, seconds, HOLDER.json()]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1)

    def test_it_answers_and_ends_with_its_input(self, tmp_path: Path) -> None:
        with self.start(tmp_path / "deep" / "er") as script:
            assert script.stdin is not None and script.stdout is not None
            assert script.stdout.readline() == "held\n"
            assert json.loads((tmp_path / "deep" / "er" / "lock").read_text())["pid"] == 4242
            script.stdin.write("beat\n")
            assert script.stdout.readline() == "alive\n"
            out, err = script.communicate(timeout=20)
            assert (out, err, script.returncode) == ("", "", 0)
        assert (tmp_path / "deep" / "er" / "lock").read_text() == ""

    def test_silence_ends_it(self, tmp_path: Path) -> None:
        with self.start(tmp_path, seconds="0.1") as script:
            assert script.stdout is not None
            assert script.stdout.read() == "held\n"
            assert script.wait(20) == 0

    def test_a_busy_lock_prints_its_holder(self, tmp_path: Path) -> None:
        with self.start(tmp_path) as first:
            assert first.stdout is not None
            first.stdout.readline()
            with self.start(tmp_path) as second:
                out, err = second.communicate(timeout=20)
            assert (Holder.parse(out), err, second.returncode) == (HOLDER, "", 4)
            first.communicate(timeout=20)

    def test_nobody_listening_is_no_noise(self, tmp_path: Path) -> None:
        with self.start(tmp_path) as script:
            assert script.stdout is not None and script.stdin is not None and script.stderr is not None
            script.stdout.readline()
            script.stdout.close()
            script.stdin.write("beat\n")
            script.stdin.close()
            assert script.stderr.read() == ""

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with self.start(tmp_path / "file") as script:
            out, err = script.communicate(timeout=20)
        assert out.startswith("cannot lock: ")
        assert (err, script.returncode) == ("", 1)

    def test_old_pythons_can_read_it(self) -> None:
        ast.parse(HOLD_LOCK.read_text(), feature_version=(3, 6))


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], bool]:
    def wait(condition: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + 10
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    return wait
