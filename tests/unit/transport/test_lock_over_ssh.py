"""The lock on the head, held over a real SSH connection."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.record.lock import fleet_lock
from llmfleet.launch.transport.ssh import SshTransport
from llmfleet.planner.errors import LockedError, StateError

pytestmark = pytest.mark.live

Connect = Callable[..., SshTransport]


def hold(connect: Connect, folder: Path, operator: str) -> Any:
    head_dir = str(folder / "head")
    return fleet_lock(folder / operator, command="up", head=connect(), head_dir=head_dir, python=sys.executable)


def test_free_for_the_next_at_once(connect: Connect, tmp_path: Path) -> None:
    for operator in ("ann", "bob") * 3:
        with hold(connect, tmp_path, operator) as held:
            held.check()


def test_a_cut_connection_loses_the_lock_here_and_frees_it_there(
    connect: Connect, sshd: Any, tmp_path: Path, eventually: Any
) -> None:
    with hold(connect, tmp_path, "ann") as held:
        with pytest.raises(LockedError), hold(connect, tmp_path, "bob"):
            pytest.fail("two at once")
        sshd.hang_up()
        assert eventually(lambda: held.lost)
        with pytest.raises(StateError, match="node-3: the lock on the head node was lost"):
            held.check()
        assert eventually(lambda: can_hold(connect, tmp_path))


def can_hold(connect: Connect, folder: Path) -> bool:
    try:
        with hold(connect, folder, "bob"):
            return True
    except LockedError:
        return False
