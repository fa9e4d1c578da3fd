"""Services of a user's own systemd, as that of one who lingers: real ones, but for logind's word that he does."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from booted_fleet import BootedFleet, group_of, parent, until
from live_fleet import LLMFLEET
from systemd_machine import Machine, NoMachineError

pytestmark = [pytest.mark.live, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")]

USER = "games"  # every Debian has it, and no machine runs anything as it
# What logind starts at boot for who lingers, without PAM.
LINGERS = """\
[Service]
Type=notify
User={user}
Environment=HOME={home} XDG_RUNTIME_DIR=/run/user/{uid} USER={user} LOGNAME={user}
ExecStartPre=+/usr/bin/install -d -o {user} -m 700 /run/user/{uid}
ExecStart=/lib/systemd/systemd --user
Delegate=yes
KillMode=mixed
"""
ONE = "llmfleet-loop-n1@story-n1-0.service"


@dataclass
class UsersFleet(BootedFleet):
    home: Path = field(default_factory=Path)

    def command(self, *words: str) -> list[str]:
        assert self.machine is not None
        path = f"PATH={self.home}/bin:/usr/local/bin:/usr/bin:/bin"
        become = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        names = (f"HOME={self.home}", f"USER={USER}", f"LOGNAME={USER}", path)
        return self.machine.enter("env", "-C", str(self.folder), *become, "env", *names, str(LLMFLEET), *words)

    @property
    def units(self) -> set[str]:
        """Files and links that are there."""
        return {found.name for found in (self.home / ".config/systemd/user").rglob("llmfleet-*")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Pytest's own are for root alone."""
    made = Path(tempfile.mkdtemp(prefix="llmfleet-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def fleet(folder: Path) -> Iterator[UsersFleet]:
    if shut := [p for p in (*Path(__file__).parents, *LLMFLEET.parents) if not p.stat().st_mode & 0o001]:
        pytest.skip(f"{USER} may not enter {shut[-1]}, where the code is")
    try:
        user = pwd.getpwnam(USER)
        machine = Machine(folder / "machine")
        home = folder / "home"
        unit = machine.etc / "lingers.service"
        unit.write_text(LINGERS.format(user=USER, uid=user.pw_uid, home=home))
        (machine.etc / "multi-user.target.wants").mkdir()
        (machine.etc / "multi-user.target.wants" / unit.name).symlink_to(f"/etc/systemd/system/{unit.name}")
        for own in (home, home / "bin", folder / "fleet", folder / "fleet" / ".llmfleet"):
            own.mkdir()
            os.chown(own, user.pw_uid, user.pw_gid)
        logind = home / "bin" / "loginctl"
        logind.write_text("#!/bin/sh\necho Linger=yes\n")
        logind.chmod(0o755)
        machine.boot()
    except (NoMachineError, KeyError) as why:
        pytest.skip(str(why))
    try:
        made = UsersFleet(folder / "fleet", ("n1", "n2"), machine=machine, home=home)
        yield made
        made.close()
        assert made.units == set()
        assert made.ours() == {}
    finally:
        machine.power_cut()


def test_a_users_services_come_back_as_roots_do(fleet: UsersFleet) -> None:
    assert fleet.machine is not None
    fleet.plan_with(supervisor="systemd")
    fleet.ok("up")
    assert {ONE, "llmfleet-loop-n1@.service"} <= fleet.units
    assert fleet.ok("up", "--dry-run", "--json").steps == []
    (engine,) = fleet.lives()["n1/story-n1-0"]
    assert group_of(engine) == ONE
    os.kill(parent(engine), signal.SIGKILL)
    until(lambda: fleet.lives().get("n1/story-n1-0") not in (None, [engine]) and fleet.healthy())

    fleet.machine.power_off()
    fleet.machine.boot()
    until(lambda: fleet.healthy() and fleet.answers() and len(fleet.lives()) == 2)
    assert fleet.ok("up", "--dry-run", "--json").steps == []
    fleet.ok("drain", "n1", "--yes")
    assert ONE not in fleet.units
    assert fleet.lives().keys() == {"n2/story-n2-0"}
    fleet.ok("undrain", "n1")
    assert ONE in fleet.units


def test_without_systemd_of_the_users_own_doctor_says_what_to_do(fleet: UsersFleet) -> None:
    (fleet.home / "bin" / "loginctl").write_text("#!/bin/sh\necho Linger=no\n")
    fleet.plan_with(supervisor="systemd")
    ran = fleet.run("up")
    assert ran.code == 1
    assert f"sudo loginctl enable-linger {USER}" in ran.err
    assert fleet.units == set()
