#!/usr/bin/env python3
"""Starts and stops supervisors of processes, and sees what they do. Stand-alone, but for `start`: Python 3.6, Linux.

    supervise.py start RUNDIR              start what RUNDIR/spec.json describes, unless it runs already
    supervise.py stop RUNDIR [--grace S]   drain, then end it; returns when nothing of it is left
    supervise.py status RUNDIR...          JSON list
    supervise.py sweep DIR                 kill whatever was started for any folder DIR/run/*, and nothing else

Where the spec names a unit of systemd, that starts the supervisor and stops it, and starts it again if it is killed.
RUNDIR is DIR/run/NAME; beside spec.json lie status.json, log, stopped, and lock, which the supervisor holds.
Ours are the processes whose environment carries the marker DIR/NAME, and the descendants of the supervisor.
"""

import argparse
import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

PROCESS_MARKER, SUPERVISOR_MARKER = "LLMFLEET_PROCESS", "LLMFLEET_SUPERVISOR"  # all that it starts carries the first
LIVE_STATES = ("starting", "healthy", "unhealthy", "stopping")
STOPPED = "stopped"  # there since `stop`; a SIGTERM without it is that of a machine which goes down: see resume.py
SYSTEMCTL_S, NOT_LOADED = 110.0, 5  # seconds; exit code of `systemctl stop` where there is nothing to stop
PATIENCE_S = 5.0  # what outlives a SIGTERM for so long gets SIGKILL
Status = Dict[str, Any]
BLANK: Status = {"kind": None, "digest": None, "state": "exited", "pid": None, "supervisor_pid": None,
                 "started_at": None, "healthy_since": None, "restarts": 0, "last_exit": None, "last_error": None}


def marker(rundir: str) -> str:
    return os.path.join(os.path.dirname(os.path.dirname(rundir)), os.path.basename(rundir))


def read_json(*path: str) -> Dict[str, Any]:
    """The object in the file; {} when there is none, or half of one after a power cut."""
    with contextlib.suppress(OSError, ValueError), open(os.path.join(*path)) as file:
        found = json.load(file)
        return found if isinstance(found, dict) else {}
    return {}


def digest(spec: Dict[str, Any]) -> str:
    """The same as Process.digest on the operator's side."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]


def take_lock(path: str, wait: bool) -> bool:
    """Holds the lock until this process ends; False when another holds it. No child inherits it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    return False


def read_status(rundir: str) -> Status:
    """status.json, corrected where it speaks of a supervisor that is gone."""
    status = dict(BLANK, name=os.path.basename(rundir), last_error="never started")
    status.update(read_json(rundir, "status.json"))
    if status["state"] in LIVE_STATES and status["supervisor_pid"] not in supervisors(rundir):
        status.update(state="exited", pid=None, healthy_since=None, last_error="its supervisor is gone")
    unit = read_json(rundir, "spec.json").get("unit")
    return dict(status, at_boot=is_enabled(unit)) if unit else status


def is_enabled(unit: str) -> bool:
    """Whether the link is there by which systemd starts it at boot."""
    user = os.path.expanduser("~/.config/systemd/user/default.target.wants")
    return os.path.lexists(os.path.join(user if os.getuid() else "/etc/systemd/system/multi-user.target.wants", unit))


def of_all_processes(name: str) -> Iterator[Tuple[int, bytes]]:
    """The file /proc/PID/name of each process that lets us read it."""
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        with contextlib.suppress(OSError), open("/proc/%d/%s" % (pid, name), "rb") as file:  # gone, or another user's
            yield pid, file.read()


def marked(name: str, value: str) -> Set[int]:
    """Processes whose environment says name=value; where the value ends with a slash, any value below it."""
    wanted = b"\0" + os.fsencode("%s=%s" % (name, value)) + (b"" if value.endswith("/") else b"\0")
    return {pid for pid, words in of_all_processes("environ") if wanted in b"\0" + words + b"\0"} - {os.getpid()}


def supervisors(rundir: str) -> Set[int]:
    return marked(SUPERVISOR_MARKER, marker(rundir))


def send(pids: Set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def clean_up(rundir: str) -> None:
    """Takes away what no signal of ours reaches: a container, by the command that the spec has for it."""
    spec, null = read_json(rundir, "spec.json"), subprocess.DEVNULL
    if spec.get("cleanup"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(spec["cleanup"], env=dict(os.environ, **spec["env"]), stdout=null, stderr=null, timeout=60)


def launch(rundir: str) -> str:
    """Starts a supervisor and returns when it has made its first attempt; or why it could not be started."""
    for name in (STOPPED, "status.json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(rundir, name))
    spec = read_json(rundir, "spec.json")
    if not spec.get("unit"):
        return detached(rundir)
    return enable(spec) or systemctl("restart", spec["unit"])


def enable(spec: Dict[str, Any]) -> str:
    """Or the contrary, as the spec has it; returns what systemd complains of."""
    return systemctl("enable" if spec.get("at_boot") else "disable", spec["unit"])


def detached(rundir: str) -> str:
    """It outlives our SSH session."""
    told, announce = os.pipe()
    environment = dict(os.environ, **{SUPERVISOR_MARKER: marker(rundir)})
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "supervisor.py")
    argv = [sys.executable, script, os.path.dirname(os.path.dirname(rundir)), os.path.basename(rundir), str(announce)]
    with open(os.path.join(rundir, "log"), "ab") as log:
        subprocess.Popen(argv, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                         start_new_session=True, pass_fds=[announce])
    os.close(announce)
    os.read(told, 1)  # ends when the supervisor closes its end
    return ""


def systemctl(*words: str) -> str:
    """Of the system's manager for root, else of the user's own; returns what it complains of."""
    own = ["--user"] if os.getuid() else []
    environment = dict({"XDG_RUNTIME_DIR": "/run/user/%d" % os.getuid()}, **os.environ)
    try:
        done = subprocess.run(["systemctl", *own, *words], env=environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SYSTEMCTL_S)
    except (OSError, subprocess.TimeoutExpired) as why:
        return str(why)
    said = done.stderr.decode(errors="replace").strip() or "exit code %d" % done.returncode
    return "" if done.returncode in (0, NOT_LOADED) else "systemctl %s: %s" % (" ".join(words), said.splitlines()[-1])


def start(rundir: str) -> Status:
    take_lock(os.path.join(rundir, "start.lock"), wait=True)  # one start at a time
    spec, status = read_json(rundir, "spec.json"), read_status(rundir)
    if status["digest"] == digest(spec) and status["state"] in LIVE_STATES[:3]:
        error = enable(spec) if spec.get("unit") and status["at_boot"] != bool(spec.get("at_boot")) else ""
        return sys.exit(error) if error else read_status(rundir)
    if supervisors(rundir):
        stop(rundir, None)
    error = launch(rundir)
    status = read_status(rundir)
    return status if status["digest"] else dict(status, last_error=error or status["last_error"])


def stop(rundir: str, grace: Optional[float]) -> Status:
    """Has the supervisor drain and end its process. What is left when patience ends is killed, the supervisor too."""
    spec = read_json(rundir, "spec.json")
    own = float(spec.get("stop_grace_s", 30)) + PATIENCE_S + 30
    deadline = time.monotonic() + (own if grace is None else grace)
    with contextlib.suppress(OSError), open(os.path.join(rundir, STOPPED), "w"):
        pass  # before the signal
    unit = spec.get("unit")
    if unit:  # before the signal too, since it starts again what ended without its doing
        systemctl("disable", unit)
        systemctl("stop", "--no-block", unit)
    send(supervisors(rundir), signal.SIGTERM)
    while supervisors(rundir) and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_all(marker(rundir))
    clean_up(rundir)
    error = systemctl("stop", unit) if unit else ""
    if error:
        sys.exit("its unit would start it again: " + error)
    return read_status(rundir)


def kill_all(value: str) -> List[int]:
    """SIGKILL until nothing marked is left or ten seconds have passed; whom it hit."""
    hit, left, deadline = set(), {0}, time.monotonic() + 10  # type: Set[int], Set[int], float
    while left and time.monotonic() < deadline:
        left = marked(SUPERVISOR_MARKER, value) | marked(PROCESS_MARKER, value)
        send(left, signal.SIGKILL)
        hit |= left
        time.sleep(0.05)
    return sorted(hit)


def main() -> int:
    parser = argparse.ArgumentParser(description="Keeps one process running on a node.")
    parser.add_argument("command", choices=("start", "stop", "status", "sweep"))
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--grace", type=float, help="seconds until all is killed; the spec's if left out")
    asked = parser.parse_args()
    os.umask(0o077)  # logs and whatever engines write are for their user alone
    rundir = os.path.realpath(asked.folder[0])
    if asked.command == "start" and not read_json(rundir, "spec.json").get("argv"):
        print("%s/spec.json is missing or names no argv" % rundir, file=sys.stderr)
        return 2
    if asked.command == "start":
        answer: Any = start(rundir)
    elif asked.command == "stop":
        answer = stop(rundir, asked.grace)
    elif asked.command == "sweep":
        answer = {"killed": kill_all(rundir + "/")}
        for spec in glob.glob(os.path.join(glob.escape(rundir), "run", "*", "spec.json")):
            clean_up(os.path.dirname(spec))
        for scratch in (rundir + "/scratch", "/tmp/llmfleet-" + hashlib.sha256(rundir.encode()).hexdigest()[:12]):  # noqa: S108
            shutil.rmtree(scratch, ignore_errors=True)  # see launch/nodes/scratch.py
    else:
        answer = [read_status(os.path.realpath(folder)) for folder in asked.folder]
    print(json.dumps(answer))
    if asked.command != "start" or answer["state"] in LIVE_STATES:
        return 0
    print(answer["last_error"], file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
