#!/usr/bin/env python3
"""Keeps one process running on a node, and outlives the SSH session that started it. Stand-alone: Python 3.6, Linux.

    supervise.py start RUNDIR              start what RUNDIR/spec.json describes, unless it runs already
    supervise.py stop RUNDIR [--grace S]   drain, then end it; returns when nothing of it is left
    supervise.py status RUNDIR...          JSON list
    supervise.py sweep DIR                 kill whatever was started for any folder DIR/run/*, and nothing else

RUNDIR is DIR/run/NAME; beside spec.json lie status.json, log, stopped, and lock, which the supervisor holds.
Ours are the processes whose environment carries the marker DIR/NAME, and the descendants of the supervisor.
"""

import argparse
import contextlib
import ctypes
import fcntl
import glob
import hashlib
import http.client
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple
from urllib.parse import urlsplit

PROCESS_MARKER, SUPERVISOR_MARKER = "LLMFLEET_PROCESS", "LLMFLEET_SUPERVISOR"  # all that it starts carries the first
LIVE_STATES = ("starting", "healthy", "unhealthy", "stopping")
LOG_LIMIT, EARLY_DEATHS = 50 << 20, 3  # so many without ever having been healthy: it will not heal by itself
STOPPED = "stopped"  # there since `stop`; a SIGTERM without it is that of a machine which goes down: see resume.py
BACKOFF_MAX_S, BACKOFF_RESET_S = 30.0, 60.0  # healthy for the latter: the next death starts again at one second
# A process without a health URL is healthy once it has lived so long; what outlives it gets SIGTERM, later SIGKILL.
SETTLED_S, PATIENCE_S = 3.0, 5.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, LIBC = 1, 36, ctypes.CDLL(None)
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
    return status


def of_all_processes(name: str) -> Iterator[Tuple[int, bytes]]:
    """The file /proc/PID/name of each process that lets us read it."""
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        with contextlib.suppress(OSError), open("/proc/%d/%s" % (pid, name), "rb") as file:  # gone, or another user's
            yield pid, file.read()


def descendants(root: int) -> Set[int]:
    """Zombies are left out: nothing more can be done to them."""
    parents = {}
    for pid, stat in of_all_processes("stat"):
        state, parent = stat.rsplit(b")", 1)[1].split()[:2]
        if state not in (b"Z", b"X"):
            parents[pid] = int(parent)
    found, more = set(), {root}  # type: Set[int], Set[int]
    while more:
        more = {pid for pid, parent in parents.items() if parent in more}
        found |= more
    return found


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
        self.rundir, self.spec = rundir, read_json(rundir, "spec.json")
        self.url: Optional[str] = self.spec.get("health_url")
        self.pid = self.deaths = 0  # no pid: it does not run
        self.ever_healthy = self.stopping = self.interrupted = False
        self.status = dict(BLANK, name=os.path.basename(rundir), supervisor_pid=os.getpid())

    def supervise(self, announce: int) -> None:
        """Runs until stopped or failed. Closing `announce` tells `start` that the first attempt has been made."""
        self.update(state="starting", kind=self.spec.get("kind"), digest=digest(self.spec))
        self.clear()  # leftovers of a previous life
        backoff, error = 1.0, self.spawn()
        if not error:
            os.close(announce)  # otherwise our end does it, after the last word
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
        ours = {PROCESS_MARKER: marker(self.rundir), SUPERVISOR_MARKER: "", "SPT_NOENV": "1"}
        environment = dict(os.environ, **dict(self.spec.get("env", {}), **ours))
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
        send({-self.pid} - {0}, signal.SIGKILL)  # its process group
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
        send({self.pid} - {0}, signal.SIGTERM)
        deadline = time.monotonic() + float(self.spec.get("stop_grace_s", 30))
        while self.pid and time.monotonic() < deadline:
            self.wait(0.2)

    def clear(self) -> None:
        """Ends all that carries our marker or descends from us, by force where patience does not help."""
        clean_up(self.rundir)
        born, told = time.monotonic(), set()  # type: float, Set[int]
        while time.monotonic() < born + PATIENCE_S + 25:
            left = descendants(os.getpid()) | marked(PROCESS_MARKER, marker(self.rundir))
            self.reap()
            if not left and not self.pid:  # a process whose threads are still ending looks like a zombie, and is none
                return
            send(left - told, signal.SIGTERM)
            told |= left
            if time.monotonic() > born + PATIENCE_S:
                send(left, signal.SIGKILL)
            time.sleep(0.05)
        print("supervise: cannot end %s" % sorted(left), flush=True)

    def wait(self, seconds: float) -> bool:
        """Sleeps for so long, or until the process ends; whether we are told to stop."""
        had, deadline = self.pid, time.monotonic() + seconds
        while had == self.pid and time.monotonic() < deadline:
            got = signal.sigtimedwait([signal.SIGTERM, signal.SIGCHLD], max(0.0, deadline - time.monotonic()))
            if got and got.si_signo == signal.SIGTERM:
                self.stopping, self.interrupted = True, not os.path.exists(os.path.join(self.rundir, STOPPED))
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


def run(rundir: str, announce: int) -> int:
    """The supervisor itself. `start` runs it in a session of its own."""
    os.set_inheritable(announce, False)
    if not take_lock(os.path.join(rundir, "lock"), wait=False):
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)  # workers whose parent died become our children
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))  # Ray and Envoy want many
    Supervisor(rundir).supervise(announce)
    return 0


def launch(rundir: str) -> None:
    """Starts a supervisor and waits until it has made its first attempt."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(rundir, STOPPED))
    told, announce = os.pipe()
    environment = dict(os.environ, **{SUPERVISOR_MARKER: marker(rundir)})
    argv = [sys.executable, os.path.abspath(__file__), "run", rundir, str(announce)]
    with open(os.path.join(rundir, "log"), "ab") as log:
        subprocess.Popen(argv, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                         start_new_session=True, pass_fds=[announce])
    os.close(announce)
    os.read(told, 1)  # ends when the supervisor closes its end


def start(rundir: str) -> Status:
    take_lock(os.path.join(rundir, "start.lock"), wait=True)  # one start at a time
    wanted, status = digest(read_json(rundir, "spec.json")), read_status(rundir)
    if status["digest"] == wanted and status["state"] in LIVE_STATES[:3]:
        return status
    if supervisors(rundir):
        stop(rundir, None)
    launch(rundir)
    return read_status(rundir)


def stop(rundir: str, grace: Optional[float]) -> Status:
    """Has the supervisor drain and end its process. What is left when patience ends is killed, the supervisor too."""
    own = float(read_json(rundir, "spec.json").get("stop_grace_s", 30)) + PATIENCE_S + 30
    deadline = time.monotonic() + (own if grace is None else grace)
    with contextlib.suppress(OSError), open(os.path.join(rundir, STOPPED), "w"):
        pass  # before the signal
    send(supervisors(rundir), signal.SIGTERM)
    while supervisors(rundir) and time.monotonic() < deadline:
        time.sleep(0.1)
    kill_all(marker(rundir))
    clean_up(rundir)
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
    parser.add_argument("command", choices=("start", "stop", "status", "sweep", "run"))
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--grace", type=float, help="seconds until all is killed; the spec's if left out")
    asked = parser.parse_args()
    os.umask(0o077)  # logs and whatever engines write are for their user alone
    rundir = os.path.realpath(asked.folder[0])
    if asked.command == "run":
        return run(rundir, int(asked.folder[1]))
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
    return 1 if asked.command == "start" and answer["state"] not in LIVE_STATES else 0


if __name__ == "__main__":
    sys.exit(main())
