"""An engine as the child of a replica: started, asked how it is, and ended with all that it started.

    serve_child.py GRACE WORD…    the engine's command

Between replica and engine stands a process of this file. The replica holds its standard input: when that closes, and
it does however a replica ends, the engine is told to end, and what is left of it after GRACE seconds is killed. A byte
there kills it at once. Standard library only.
"""

import contextlib
import ctypes
import http.client
import os
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional

POLL_S = 0.2
ANSWER_S = 2.0
KILLED_S = 5.0
LAST_LINES, TOLD_LINES, LONGEST = 100, 3, 200
PR_SET_PDEATHSIG, LIBC = 1, ctypes.CDLL(None)


class Child:
    def __init__(self, argv: List[str], env: Dict[str, str], port: int, grace_s: float) -> None:
        """`env`: all of it. `port`: where the engine answers, on loopback. Its output becomes ours."""
        self.port = port
        self.said: Deque[str] = deque(maxlen=LAST_LINES)
        self.on_end: Optional[Callable[[], None]] = None  # called in a thread, where it ends unasked
        words = [sys.executable, __file__, "%g" % grace_s, *argv]
        self.process: Any = subprocess.Popen(
            words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with self.process.stdout as output:
            for line in output:
                text = line.decode(errors="replace").rstrip()
                self.said.append(text)
                sys.stderr.write(text + "\n")
                sys.stderr.flush()
        self.process.wait()
        if self.on_end is not None:
            self.on_end()

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health", headers={"Connection": "close"})
            return connection.getresponse().status == 200
        return False

    def end(self) -> Optional[str]:
        """How it ended; None while it has not."""
        code = self.process.poll()
        if code is None:
            return None
        if self.reader is not threading.current_thread():
            self.reader.join(1.0)  # its last words may still be on the way
        lines = [line for line in self.said if line]
        named = [line for line in lines if "error" in line.lower()][-TOLD_LINES:]
        told = "; ".join(line[:LONGEST] for line in named or lines[-1:]) or "it said nothing"
        return "exit code %d: %s" % (code, told)

    def stop(self) -> None:
        """It may finish what it is at, within its grace."""
        self.on_end = None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()

    def kill(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, or is about to
            os.write(self.process.stdin.fileno(), b"\n")
        try:
            self.process.wait(KILLED_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def main(grace_s: float, argv: List[str]) -> int:
    try:
        engine = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
    except OSError as why:
        sys.stderr.write("error: cannot start %s: %s\n" % (argv[0], why))
        return 127
    signal.signal(signal.SIGTERM, lambda *_: None)  # not for us to leave first
    while engine.poll() is None and not select.select([0], [], [], POLL_S)[0]:
        pass
    if engine.poll() is None and not os.read(0, 1):
        engine.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(grace_s)
    with contextlib.suppress(ProcessLookupError):  # nothing is left of its group
        os.killpg(engine.pid, signal.SIGKILL)
    code = engine.wait()
    return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
