"""The Transport of this machine: the same behaviour as over SSH, without a shell or a connection."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from llmfleet.launch.transport.argv import checked, shown
from llmfleet.launch.transport.base import Argv, Completed
from llmfleet.planner.errors import CommandError, DeadlineError, InputError, TransportError

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells say it
KILL_WAIT_S = 2.0


class LocalTransport:
    """See Transport. Every command is the leader of its own process group, so that a deadline ends its children too."""

    def __init__(self, node: str) -> None:
        self.node = node

    def connect(self) -> None:
        """There is nothing to connect to."""

    def run(self, argv: Argv, *, stdin: str | None = None, timeout: float = 30.0) -> Completed:
        try:
            process = _start(argv, subprocess.PIPE)
        except OSError as error:
            return _unstartable(argv, error)
        with process:
            try:
                out, err = process.communicate((stdin or "").encode(), timeout)
            except subprocess.TimeoutExpired as error:
                _kill(process)
                raise DeadlineError(f"`{shown(argv)}` did not end within {timeout:g} s", node=self.node) from error
            except BaseException:
                _kill(process)
                raise
        return Completed(argv, process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def stream(self, argv: Argv) -> LocalStream:
        try:
            return LocalStream(self.node, argv, _start(argv, subprocess.DEVNULL))
        except OSError as error:
            raise TransportError(f"`{shown(argv)}` could not be started: {error.strerror}", node=self.node) from error

    def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        self._write(BytesIO(data), self._expanded(path), mode, None)

    def put_file(
        self, source: Path, path: str, *, mode: int = 0o600, progress: Callable[[int], None] | None = None,
        resume: str = "",  # noqa: ARG002  a copy on one machine is made anew
    ) -> None:
        try:
            file = source.open("rb")
        except OSError as error:
            raise InputError(f"{source} cannot be read: {error.strerror}") from error
        with file:
            self._write(file, self._expanded(path), mode, progress)

    def get(self, path: str) -> bytes | None:
        with self._explained(f"{path} cannot be read"):
            try:
                return self._expanded(path).read_bytes()
            except FileNotFoundError:
                return None

    def home(self) -> str:
        return str(Path.home())

    def close(self) -> None:
        """There is nothing to close."""

    def _expanded(self, path: str) -> Path:
        return Path(self.home() + path[1:] if path == "~" or path.startswith("~/") else path)

    def _write(self, source: BinaryIO, path: Path, mode: int, progress: Callable[[int], None] | None) -> None:
        with self._explained(f"{path} cannot be written"):
            _make_folders(path.parent)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
            try:
                _fill(source, temporary, mode, progress)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CommandError(f"{what}: {error.strerror}", node=self.node) from error


class LocalStream:
    """See Stream."""

    def __init__(self, node: str, argv: Argv, process: subprocess.Popen[bytes]) -> None:
        self._node, self._argv, self._process = node, argv, process

    def write(self, text: str) -> None:
        pipe = self._process.stdin
        try:
            if pipe is None or pipe.closed:
                raise BrokenPipeError
            pipe.write(text.encode())
            pipe.flush()
        except OSError as error:
            raise TransportError(f"`{shown(self._argv)}` is no longer connected", node=self._node) from error

    def lines(self) -> Iterator[str]:
        with suppress(ValueError):  # another thread closed it
            for line in self._process.stdout or ():
                yield line.removesuffix(b"\n").decode("utf-8", "replace")

    def close(self) -> None:
        """End of file for the command; one that does not read its input, as `tail -f`, is ended by a signal."""
        with suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(KILL_WAIT_S / 10)
        except subprocess.TimeoutExpired:
            _kill(self._process)
        if self._process.stdout:
            self._process.stdout.close()


def _start(argv: Argv, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        checked(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
    )


def _unstartable(argv: Argv, error: OSError) -> Completed:
    if isinstance(error, FileNotFoundError):
        return Completed(argv, NOT_FOUND, "", f"{argv[0]}: not found\n")
    return Completed(argv, NOT_EXECUTABLE, "", f"{argv[0]}: {error.strerror}\n")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_WAIT_S)


def _make_folders(path: Path) -> None:
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(0o700, exist_ok=True)


def _fill(source: BinaryIO, path: Path, mode: int, progress: Callable[[int], None] | None) -> None:
    with path.open("xb") as file:
        path.chmod(mode)  # before there is anything to read in it
        done = 0
        while chunk := source.read(1 << 20):
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(done)
