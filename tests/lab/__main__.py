"""The lab by hand: python -m tests.lab up [--engines] [NAME…] | ssh NAME [COMMAND…] | status | down"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lab.engines import CACHE, EnginesUnavailableError, engine_env
from tests.lab.lab import NAMES, PREFIX, Lab, sweep
from tests.lab.system import BASES, LabUnavailableError

BY_HAND = "by-hand"  # a file in the folder of a lab that `up` made


def main(words: list[str]) -> int:
    commands = {"up": up, "ssh": ssh, "status": status, "down": down, "hold": hold}
    if not words or words[0] not in commands:
        return _fail(__doc__ or "")
    try:
        return commands[words[0]](words[1:])
    except (LabUnavailableError, EnginesUnavailableError) as error:
        return _fail(str(error))


def up(words: list[str]) -> int:
    """Makes hosts that stay until `down`: a process of their own holds them."""
    if _folder():
        return _fail("a lab is up already: python -m tests.lab down")
    argv = [sys.executable, "-m", "tests.lab", "hold", *words]
    holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdout is not None
    for line in holder.stdout:
        if line.strip() == BY_HAND:
            return status([])
        _say(line.rstrip())
    return holder.wait()


def hold(words: list[str]) -> int:
    names = [word for word in words if not word.startswith("--")]
    wrong = [name for name in names if not re.fullmatch("[a-z][a-z0-9-]{0,30}", name)]
    if wrong:
        return _fail(f"{', '.join(wrong)}: no name for a host; use small letters, digits and hyphens")
    env = engine_env(_say) if "--engines" in words else None
    CACHE.mkdir(parents=True, exist_ok=True)
    with Lab(names or NAMES, shared=[CACHE]) as lab:
        if env:
            env.equip(lab.hosts.values())
        (lab.folder / BY_HAND).touch()
        _say(BY_HAND)
        for stream in (sys.stdout, sys.stderr):  # whoever reads what `up` prints is not to wait for this process
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        while True:
            signal.pause()  # until `down` sends SIGTERM


def ssh(words: list[str]) -> int:
    folder = _folder()
    if folder is None:
        return _fail("no lab is up: python -m tests.lab up")
    if not words:
        return _fail("which host? python -m tests.lab status")
    return os.execvp("ssh", ["ssh", "-F", str(folder / "ssh_config"), *words])  # noqa: S606


def status(words: list[str]) -> int:
    folder = _folder()
    if folder is None:
        _say("no lab is up")
        return 1
    addresses = [line.split()[0] for line in (folder / "known_hosts").read_text().splitlines()]
    names = [line.split()[1] for line in (folder / "ssh_config").read_text().splitlines() if line.startswith("Host ")]
    for name, address in zip(names, addresses, strict=False):  # the last name is `*`
        _say(f"{name:8} {address}")
    _say(f"key      {folder}/client_key\nknown    {folder}/known_hosts\npython   {_python()}")
    return 0


def down(words: list[str]) -> int:
    folder = _folder()
    if folder is not None:
        os.kill(int(folder.name.removeprefix(PREFIX).partition("-")[0]), signal.SIGTERM)
    deadline = time.monotonic() + 60
    while folder is not None and folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    sweep()
    return 0 if _folder() is None else _fail(f"{folder} is still there")


def _folder() -> Path | None:
    return next((mark.parent for base in BASES for mark in base.glob(f"{PREFIX}*/{BY_HAND}")), None)


def _python() -> str:
    built = sorted(CACHE.glob("*/venv/.complete"), key=lambda p: p.stat().st_mtime)
    return str(built[-1].parent / "bin/python") if built else "none yet: up --engines builds it"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _fail(text: str) -> int:
    print(text, file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
