"""The Transport that is the ssh program itself: for certificates of hosts and users, hardware keys, Kerberos, and
whatever else ssh_config may say. One master connection a node; commands are channels of it.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import IO

from llmfleet.launch.transport.argv import shown
from llmfleet.launch.transport.base import Argv, Completed
from llmfleet.launch.transport.files import RemoteFiles
from llmfleet.launch.transport.openssh_config import ControlFolder, failure, jump_slot, may_heal
from llmfleet.launch.transport.shell import Line
from llmfleet.launch.transport.sudo import sudo_of
from llmfleet.planner.errors import CommandError, DeadlineError, FleetError, TransportError
from llmfleet.planner.inventory.model import Access

FAILED = 255  # ssh's own exit code; a command's may be the same
ATTEMPTS, BACKOFF_S = 3, 0.5
LOGIN_FACTOR = 3.0  # as for the other transport: a login may take longer than a connection
CHUNK = 1 << 16
GRACE_S = 2.0


class OpensshTransport:
    """See Transport. A command that a signal killed has exit code 255: ssh does not say which."""

    def __init__(self, node: str, host: str, access: Access) -> None:
        self.node, self._host, self._access = node, host, access
        self._sudo = sudo_of(node, access)
        self._folder: ControlFolder | None = None
        self._files = RemoteFiles(node, self._exchange)
        self._home: str | None = None
        self._mutex = threading.Lock()

    def connect(self) -> None:
        """A live master connection. Failures that may heal are tried again; a wrong host key or login is not."""
        with self._mutex:
            attempt = 1
            while not self._opened():
                try:
                    self._open()
                except TransportError as error:
                    if attempt == ATTEMPTS or not may_heal(error):
                        raise
                    time.sleep(BACKOFF_S * attempt * random.uniform(0.5, 1.5))  # noqa: S311 spreads bursts
                    attempt += 1

    def run(self, argv: Argv, *, stdin: str | None = None, timeout: float = 30.0) -> Completed:
        line, deadline = Line(argv, self._sudo), time.monotonic() + timeout
        code, out, err = self._communicate(line, stdin, deadline)
        if code == FAILED and line.own(out) is None and not self._alive():  # dead before the command was sent
            self._forget()
            code, out, err = self._communicate(line, stdin, deadline)
        if code is None:
            raise DeadlineError(f"`{shown(argv)}` did not end within {timeout:g} s", node=self.node)
        own, errors = self._own(line, code, out, err)
        return Completed(argv, code, own.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))

    def _communicate(self, line: Line, stdin: str | None, deadline: float) -> tuple[int | None, bytes, bytes]:
        """Exit code None: it did not end in time."""
        self.connect()
        process = self._start(line)
        with process:
            try:
                given = line.preface + (stdin or "").encode()
                out, err = process.communicate(given, max(0.001, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                return None, b"", b""
            except BaseException:
                process.kill()
                raise
        return process.returncode, out, err

    def stream(self, argv: Argv) -> OpensshStream:
        line = Line(argv, self._sudo)
        self.connect()
        made = OpensshStream(self.node, line, self._start(line, subprocess.DEVNULL), self._alive)
        made.write(line.preface.decode())
        return made

    def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        self._files.put(data, self._expanded(path), mode)

    def put_file(
        self, source: Path, path: str, *, mode: int = 0o600, progress: Callable[[int], None] | None = None,
        resume: str = "",
    ) -> None:
        self._files.put_file(source, self._expanded(path), mode, progress, resume)

    def get(self, path: str) -> bytes | None:
        return self._files.get(self._expanded(path))

    def home(self) -> str:
        if self._home is None:
            answer = self.run(("sh", "-c", 'printf "%s\\n" "$HOME"'))
            if not answer.stdout.startswith("/"):
                raise CommandError("its user has no home folder", hint="Set `dir:` under `runtime:`.", node=self.node)
            self._home = answer.stdout.removesuffix("\n")
        return self._home

    def close(self) -> None:
        with self._mutex:
            if self._folder:
                self._control("exit")
                self._folder.leave()
                self._folder = None

    def _open(self) -> None:
        """ssh goes to the background once the login is done; then its exit code is 0."""
        if self._folder is None:
            self._folder = ControlFolder.enter(self.node, self._host, self._access)
        slot: AbstractContextManager[object] = jump_slot(self._access.jump) if self._access.jump else nullcontext()
        argv = self._folder.master()
        within = self._access.connect_timeout * (1 + LOGIN_FACTOR)
        with slot, (self._folder.path / f"{self.node}.err").open("w+b") as words:
            # its stderr is a file: the master in the background keeps it open, and a pipe would never end
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, env=self._folder.env(),
                start_new_session=True,
            )
            try:
                code = process.wait(within)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(GRACE_S)
                what = f"{self._host}: no login within {within:g} s"
                hint = f"Does this work: {shown(tuple(argv))}"
                raise DeadlineError(what, hint=hint, node=self.node, heals=True) from None
            except BaseException:
                process.kill()
                raise
            words.seek(0)
            said = words.read().decode("utf-8", "replace")
        if code != 0:
            raise failure(said, self.node, self._host, self._access)

    def _opened(self) -> bool:
        """Cheap, and true until the master has noticed that its connection died. Then ssh removes the socket."""
        return self._folder is not None and self._folder.socket.exists()

    def _alive(self) -> bool:
        return self._opened() and self._control("check")

    def _forget(self) -> None:
        if self._folder is not None:
            self._folder.socket.unlink(missing_ok=True)

    def _control(self, word: str) -> bool:
        """Asks or tells the master."""
        if self._folder is None:
            return False
        try:
            done = subprocess.run(self._folder.control(word), stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _start(self, line: Line, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        if self._folder is None:
            raise TransportError("it is not connected", node=self.node)
        argv: list[str | bytes] = [*self._folder.session(), line.text]
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )

    def _exchange(self, argv: Argv, chunks: Iterable[bytes], /) -> tuple[int, bytes, bytes]:
        """See files.Exchange. A connection on which nothing moves is given up by ssh itself (ServerAlive)."""
        line = Line(argv, self._sudo)
        self.connect()
        process = self._start(line)
        outputs: list[bytes] = [b"", b""]
        with process:
            readers = [
                threading.Thread(target=_collect, args=(pipe, outputs, n), daemon=True)
                for n, pipe in enumerate((process.stdout, process.stderr))
            ]
            for reader in readers:
                reader.start()
            try:
                _feed(process.stdin, chain((line.preface,), chunks))
                code = process.wait()
            except BaseException:
                process.kill()
                raise
            for reader in readers:
                reader.join()
        own, errors = self._own(line, code, *outputs)
        return code, own, errors

    def _own(self, line: Line, code: int, out: bytes, err: bytes) -> tuple[bytes, bytes]:
        """The command's own output; TransportError where the connection or the login shell, not the command, failed."""
        if code == FAILED and not self._alive():
            raise TransportError(f"the connection was lost while `{shown(line.argv)}` ran", node=self.node)
        own = line.own(out)
        if own is not None:
            return own, line.own(err) or b""
        if code == FAILED and b"session open" in err.lower():
            hint = "Its sshd may allow too few sessions on a connection (MaxSessions)."
            raise TransportError("its SSH server opens no session", hint=hint, node=self.node)
        raise line.refused(self.node, out, err)

    def _expanded(self, path: str) -> str:
        return self.home() + path[1:] if path == "~" or path.startswith("~/") else path


class OpensshStream:
    """See Stream."""

    def __init__(self, node: str, line: Line, process: subprocess.Popen[bytes], alive: Callable[[], bool]) -> None:
        self._node, self._line, self._process, self._alive = node, line, process, alive
        self._closed = False

    def write(self, text: str) -> None:
        pipe = self._process.stdin
        try:
            if pipe is None or pipe.closed:
                raise BrokenPipeError
            pipe.write(text.encode())
            pipe.flush()
        except OSError as error:
            raise self._gone() from error

    def lines(self) -> Iterator[str]:
        with suppress(ValueError):  # another thread closed it
            yield from self._line.lines(iter(self._receive, b""))
        if not self._closed and self._process.wait() == FAILED and not self._alive():
            raise self._gone()

    def close(self) -> None:
        """End of file for the command; one that goes on all the same loses its channel."""
        self._closed = True
        with suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(GRACE_S / 10)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        if self._process.stdout:
            self._process.stdout.close()

    def _receive(self) -> bytes:
        pipe = self._process.stdout
        return b"" if pipe is None or pipe.closed else pipe.read1(CHUNK)  # type: ignore[attr-defined]

    def _gone(self) -> FleetError:
        return TransportError(f"`{shown(self._line.argv)}` is no longer connected", node=self._node)


def _feed(pipe: IO[bytes] | None, chunks: Iterable[bytes]) -> None:
    if pipe is None:
        return
    with suppress(BrokenPipeError):  # it ended without reading all; its exit code says whether that was well
        for chunk in chunks:
            pipe.write(chunk)
    with suppress(BrokenPipeError):
        pipe.close()


def _collect(pipe: IO[bytes] | None, outputs: list[bytes], place: int) -> None:
    if pipe is not None:
        outputs[place] = pipe.read()
