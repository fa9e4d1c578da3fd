#!/usr/bin/env python3
"""Supervises one process: restarts what dies, kills what hangs, until it is told to stop. Python 3.6, Linux.

    supervisor.py DIR NAME [FD]      what DIR/run/NAME/spec.json describes; DIR/run/NAME/status.json says how it is

Started by supervise.py, which learns that a first attempt was made when FD is closed; or by systemd as the main process
of a unit, which is notified of it. Exit code 3: it gave up. Lies beside supervise.py and uses it.
"""

import contextlib
import ctypes
import http.client
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Optional, Set, Tuple
from urllib.parse import urlsplit

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
supervise: Any = importlib.import_module("supervise")
Status = Dict[str, Any]
LOG_LIMIT, EARLY_DEATHS = 50 << 20, 3  # so many without ever having been healthy: it will not heal by itself
BACKOFF_MAX_S, BACKOFF_RESET_S = 30.0, 60.0  # healthy for the latter: the next death starts again at one second
GAVE_UP = 3  # exit code, as launch/units/service.py has it
SETTLED_S = 3.0  # a process without a health URL is healthy once it has lived so long
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, LIBC = 1, 36, ctypes.CDLL(None)


def descendants(root: int) -> Set[int]:
    """Zombies are left out: nothing more can be done to them."""
    parents = {}
    for pid, stat in supervise.of_all_processes("stat"):
        state, parent = stat.rsplit(b")", 1)[1].split()[:2]
        if state not in (b"Z", b"X"):
            parents[pid] = int(parent)
    found, more = set(), {root}  # type: Set[int], Set[int]
    while more:
        more = {pid for pid, parent in parents.items() if parent in more}
        found |= more
    return found


def answers(url: str) -> bool:
    """Whether a GET gives 200; no step of it may take longer than two seconds."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", parts.path or "/", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    return False


class Health(threading.Thread):
    """Asks one life of the process each second how it is. A later life has its own: old answers count for nothing."""

    def __init__(self, url: Optional[str]) -> None:
        super().__init__(daemon=True)
        self.url, self.ok, self.done = url, False, threading.Event()
        self.born = self.last_ok = time.monotonic()

    def run(self) -> None:
        while not self.done.wait(1.0):
            self.ok = answers(self.url) if self.url else time.monotonic() - self.born >= SETTLED_S
            self.last_ok = time.monotonic() if self.ok else self.last_ok


class Supervisor:
    def __init__(self, rundir: str) -> None:
        self.rundir, self.spec = rundir, supervise.read_json(rundir, "spec.json")
        self.url: Optional[str] = self.spec.get("health_url")
        self.pid = self.deaths = 0  # no pid: it does not run
        self.ever_healthy = self.stopping = self.interrupted = False
        self.status = dict(supervise.BLANK, name=os.path.basename(rundir), supervisor_pid=os.getpid())

    def supervise(self, announce: Callable[[], None]) -> None:
        """Runs until stopped or failed. `announce` tells who started us that the first attempt has been made."""
        self.update(state="starting", kind=self.spec.get("kind"), digest=supervise.digest(self.spec))
        self.clear()  # leftovers of a previous life
        backoff, error = 1.0, self.spawn()
        if not error:
            announce()  # otherwise our end does it, after the last word
        while not error or self.ever_healthy:
            healthy_s, error = (0.0, error) if error else self.watch()
            if not self.spec.get("restart", True):
                self.stopping |= self.status["last_exit"] == 0
                break
            if self.stopping or (not self.ever_healthy and self.deaths >= EARLY_DEATHS):
                break
            backoff = 1.0 if healthy_s >= BACKOFF_RESET_S else backoff
            self.update(state="starting", last_error=error, restarts=self.status["restarts"] + 1)
            if self.wait(backoff):
                break
            backoff, error = min(backoff * 2, BACKOFF_MAX_S), self.spawn()
        state = "stopping" if self.interrupted else "exited" if self.stopping else "failed"
        self.update(state=state, last_error=None if self.stopping else error)

    def spawn(self) -> str:
        """Starts the process; returns why it could not."""
        if self.url and answers(self.url):
            return "something else already answers at %s" % self.url
        # SPT_NOENV: setproctitle, which engines and Ray use, would overwrite the marker in /proc/PID/environ.
        ours = {supervise.PROCESS_MARKER: supervise.marker(self.rundir), supervise.SUPERVISOR_MARKER: ""}
        environment = dict(os.environ, **dict(self.spec.get("env", {}), SPT_NOENV="1", **ours))
        limit_log(self.rundir)
        try:
            os.makedirs(environment.get("TMPDIR") or self.rundir, exist_ok=True)  # what cleans /tmp may have taken it
            environment.update({k: open(p).read().strip() for k, p in self.spec.get("env_files", {}).items()})  # noqa: SIM115
            with open(os.path.join(self.rundir, "log"), "ab") as log:
                child = subprocess.Popen(self.spec["argv"], env=environment, cwd=self.rundir, stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=log, preexec_fn=self.in_child)
        except (OSError, ValueError, subprocess.SubprocessError) as why:
            return "cannot start %s: %s" % (self.spec["argv"][0], why)
        self.pid, child.returncode = child.pid, 0  # Popen is never to wait for it: reap() does, as for the orphans
        self.update(pid=child.pid, started_at=time.time())
        return ""

    def in_child(self) -> None:
        os.setsid()
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a supervisor that is killed takes its process along
        if os.getppid() != self.status["supervisor_pid"]:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def watch(self) -> Tuple[float, str]:
        """Stays with one life of the process until nothing is left of it; how long it was healthy, and why it ended."""
        health, healthy_at, error = Health(self.url), 0.0, ""
        health.start()
        while self.pid and not error and not self.wait(0.2):
            if health.ok and self.status["state"] != "healthy":
                healthy_at, self.ever_healthy = healthy_at or time.monotonic(), True
                self.update(state="healthy", healthy_since=time.time(), last_error=None)
            elif not health.ok and self.status["state"] == "healthy":
                self.update(state="unhealthy", healthy_since=None)
            error = self.overdue(time.monotonic() - health.last_ok, bool(healthy_at))
            limit_log(self.rundir)
        health.done.set()
        self.deaths += 1
        healthy_s = time.monotonic() - healthy_at if healthy_at else 0.0
        if self.stopping:
            self.drain()
        supervise.send({-self.pid} - {0}, signal.SIGKILL)  # its process group
        self.clear()
        return healthy_s, error or "exit code %s: %s" % (self.status["last_exit"], last_words(self.rundir))

    def overdue(self, silence: float, was_healthy: bool) -> str:
        limit = float(self.spec.get("hang_after_s", 30) if was_healthy else self.spec.get("start_within_s", 1800))
        if silence <= limit:
            return ""
        self.deaths = self.deaths if was_healthy else EARLY_DEATHS  # another attempt would take as long
        return "%s: no good answer from %s for %g s" % ("hung" if was_healthy else "never came up", self.url, limit)

    def drain(self) -> None:
        """SIGTERM to the process alone, since it ends its own workers when its requests are done; within limits."""
        self.update(state="stopping", healthy_since=None)
        supervise.send({self.pid} - {0}, signal.SIGTERM)
        deadline = time.monotonic() + float(self.spec.get("stop_grace_s", 30))
        while self.pid and time.monotonic() < deadline:
            self.wait(0.2)

    def clear(self) -> None:
        """Ends all that carries our marker or descends from us, by force where patience does not help."""
        supervise.clean_up(self.rundir)
        born, told = time.monotonic(), set()  # type: float, Set[int]
        while time.monotonic() < born + supervise.PATIENCE_S + 25:
            left = descendants(os.getpid()) | supervise.marked(supervise.PROCESS_MARKER, supervise.marker(self.rundir))
            self.reap()
            if not left and not self.pid:  # a process whose threads are still ending looks like a zombie, and is none
                return
            supervise.send(left - told, signal.SIGTERM)
            told |= left
            if time.monotonic() > born + supervise.PATIENCE_S:
                supervise.send(left, signal.SIGKILL)
            time.sleep(0.05)
        print("supervise: cannot end %s" % sorted(left), flush=True)

    def wait(self, seconds: float) -> bool:
        """Sleeps for so long, or until the process ends; whether we are told to stop."""
        had, deadline = self.pid, time.monotonic() + seconds
        while had == self.pid and time.monotonic() < deadline:
            got = signal.sigtimedwait([signal.SIGTERM, signal.SIGCHLD], max(0.0, deadline - time.monotonic()))
            if got and got.si_signo == signal.SIGTERM:
                self.stopping, self.interrupted = True, not os.path.exists(os.path.join(self.rundir, supervise.STOPPED))
                return True
            self.reap()
        return False

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # none is left
            pid, code = os.waitpid(-1, os.WNOHANG)
            while pid:
                if pid == self.pid:
                    self.pid = 0
                    last = -os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
                    self.update(pid=None, last_exit=last, healthy_since=None)
                pid, code = os.waitpid(-1, os.WNOHANG)

    def update(self, **changes: Any) -> None:
        self.status.update(changes)
        path = os.path.join(self.rundir, "status.json")
        with contextlib.suppress(OSError):  # a full disk is no reason to stop serving
            with open(path + ".new", "w") as file:
                print(json.dumps(self.status), file=file, flush=True)
                os.fsync(file.fileno())  # a power cut leaves the old one or the new, not half of it
            os.replace(path + ".new", path)


def limit_log(rundir: str) -> None:
    """Keeps the log near its limit, and one old one. Writers append, so it may be cut under them."""
    path = os.path.join(rundir, "log")
    with contextlib.suppress(OSError):
        if os.path.getsize(path) > LOG_LIMIT:
            shutil.copyfile(path, path + ".1")
            os.truncate(path, 0)


def last_words(rundir: str) -> str:
    """The last line of the log that names an error, else the last line."""
    lines = ["no log"]
    with contextlib.suppress(OSError), open(os.path.join(rundir, "log"), "rb") as log:
        log.seek(max(0, os.path.getsize(log.name) - 16384))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return ([line for line in lines if "Error" in line or "error:" in line] or lines or [""])[-1][:500]


def announcer(fd: str) -> Callable[[], None]:
    """Closes the descriptor, or tells systemd: man sd_notify. Neither is for our children."""
    place = os.environ.pop("NOTIFY_SOCKET", "")
    if fd:
        os.set_inheritable(int(fd), False)
        return lambda: os.close(int(fd))
    return lambda: notify("\0" + place[1:] if place.startswith("@") else place)


def notify(place: str) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(b"READY=1", place)


def main(folder: str, name: str, fd: str = "") -> int:
    rundir = os.path.join(folder, "run", name)
    marker = {supervise.SUPERVISOR_MARKER: supervise.marker(rundir)}
    if os.environ.get(supervise.SUPERVISOR_MARKER) != marker[supervise.SUPERVISOR_MARKER]:  # as systemd starts us
        os.execve(sys.executable, [sys.executable, *sys.argv], dict(os.environ, **marker))  # noqa: S606  # no shell is wanted
    os.umask(0o077)
    announce = announcer(fd)
    if not supervise.take_lock(os.path.join(rundir, "lock"), wait=False):
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # workers whose parent died become our children
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))  # Ray and Envoy want many
    supervisor = Supervisor(rundir)
    supervisor.supervise(announce)
    return GAVE_UP if supervisor.status["state"] == "failed" else 0


if __name__ == "__main__":
    sys.exit(main(os.path.realpath(sys.argv[1]), *sys.argv[2:]))
