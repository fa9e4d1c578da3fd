#!/usr/bin/env python3
"""Runs Envoy, and on SIGHUP a second one that takes over its sockets: no connection is refused, no stream is cut.
Stand-alone: Python 3.6, Linux.

    hot_restart.py ENVOY [OPTION...]

Envoy itself does the handing over; it needs somebody who starts the next of them. The older one answers what it has
begun and ends after --parent-shutdown-time-s; until then there is no third. SIGTERM ends all. In the working folder
lies `base-id`, the number by which Envoys of one router know each other. Exits as the newest Envoy does.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Dict, List, Optional

BASE_ID = "base-id"
SETTLED_S = 60.0  # one that ends sooner while an older one runs never took over
SIGNALS = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]


class Envoys:
    """Those that run, by process id, oldest first."""

    def __init__(self, argv: List[str]) -> None:
        self.argv = argv
        self.running: Dict[int, "subprocess.Popen[bytes]"] = {}
        self.epoch = 0  # of the newest
        self.born = 0.0

    def start(self, epoch: int) -> None:
        base = ["--base-id", base_id()] if epoch else ["--use-dynamic-base-id", "--base-id-path", BASE_ID]
        argv = [*self.argv, "--restart-epoch", str(epoch), *base]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=unblocked)
        self.running[child.pid], self.epoch, self.born = child, epoch, time.monotonic()

    def newest(self) -> int:
        return list(self.running)[-1]

    def reap(self) -> Optional[int]:
        """The exit code when it is over with us too."""
        for pid, child in list(self.running.items()):
            code = child.poll()
            if code is None:
                continue
            newest = pid == self.newest()
            del self.running[pid]
            if newest and self.running and time.monotonic() < self.born + SETTLED_S:
                print("hot_restart: the next Envoy ended with %s, the one before goes on" % code, flush=True)
                self.epoch -= 1
            elif newest:
                return code
        return None

    def end(self) -> None:
        for pid in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for child in self.running.values():
            child.wait()


def unblocked() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def base_id() -> str:
    with open(BASE_ID) as file:
        return file.read().strip()


def forget() -> None:
    """Takes away the shared memory of Envoys that are gone: they leave it behind."""
    with contextlib.suppress(OSError):
        os.unlink("/dev/shm/envoy_shared_memory_%s0" % base_id())  # noqa: S108 - it is Envoy's
        os.unlink(BASE_ID)


def main() -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    forget()
    envoys = Envoys(sys.argv[1:])
    envoys.start(0)
    try:
        while True:
            number = signal.sigwait(SIGNALS)
            if number == signal.SIGHUP and len(envoys.running) == 1:
                envoys.start(envoys.epoch + 1)
            elif number == signal.SIGHUP:  # a third would have the first end at once
                print("hot_restart: an older Envoy still finishes its streams", flush=True)
            elif number == signal.SIGCHLD:
                code = envoys.reap()
                if code is not None:
                    return code if code >= 0 else 128 - code
            else:
                return 0
    finally:
        envoys.end()
        forget()


if __name__ == "__main__":
    sys.exit(main())
