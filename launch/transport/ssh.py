"""The Transport of a real node: commands, streams and files over one SSH connection. No terminal is ever allocated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import paramiko
from paramiko.ssh_exception import ChannelException, SSHException

from llmfleet.launch.transport.argv import shown
from llmfleet.launch.transport.base import Argv, Completed
from llmfleet.launch.transport.files import RemoteFiles
from llmfleet.launch.transport.gateway import Gateway
from llmfleet.launch.transport.link import Link
from llmfleet.launch.transport.shell import Line
from llmfleet.launch.transport.sudo import sudo_of
from llmfleet.planner.errors import CommandError, DeadlineError, TransportError
from llmfleet.planner.inventory.model import Access

# stderr is read when stdout has ended: what one command may write to it meanwhile without being held up
CUT_OFF = "Is the machine cut off, or overloaded? The same command goes on from here once it answers."
WINDOW_BYTES = 64 * 1024 * 1024
CHUNK = 32768
OPEN_WITHIN_S = 30.0
SILENT_S = 60.0  # a file transfer of which nothing moves for so long
Left = Callable[[], float]  # seconds until patience ends
DEAD = (SSHException, EOFError, OSError)  # how paramiko says, anywhere, that a connection is gone


class SshTransport:
    """See Transport."""

    def __init__(self, node: str, host: str, access: Access, gateway: Gateway | None = None) -> None:
        self.node = node
        self._gateway = gateway
        self._link = Link(node, host, access, gateway)
        self._sudo = sudo_of(node, access)
        self._in_gateway = False
        self._files = RemoteFiles(node, self._exchange)
        self._home: str | None = None

    def connect(self) -> None:
        self._open()

    def run(self, argv: Argv, *, stdin: str | None = None, timeout: float = 30.0) -> Completed:
        line, deadline = Line(argv, self._sudo), time.monotonic() + timeout
        channel = self._start(line, min(timeout, OPEN_WITHIN_S))
        try:
            _send(channel, (line.preface, (stdin or "").encode()), lambda: deadline - time.monotonic())
            code, out, err = self._finish(channel, line, lambda: deadline - time.monotonic())
        except TimeoutError as error:
            raise self._too_slow(argv, timeout) from error
        finally:
            _close(channel)
        return Completed(argv, code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def stream(self, argv: Argv) -> SshStream:
        line = Line(argv, self._sudo)
        made = SshStream(self.node, line, self._start(line, OPEN_WITHIN_S))
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
                what = f'the user "{self._link.user}" has no home folder'
                raise CommandError(what, hint="Set `dir:` under `runtime:`.", node=self.node)
            self._home = answer.stdout.removesuffix("\n")
        return self._home

    def close(self) -> None:
        self._link.close()
        if self._gateway and self._in_gateway:
            self._in_gateway = False
            self._gateway.leave()

    def _open(self) -> paramiko.Transport:
        if self._gateway and not self._in_gateway:
            self._in_gateway = True
            self._gateway.enter()
        return self._link.open()

    def _start(self, line: Line, timeout: float) -> paramiko.Channel:
        channel = self._channel(timeout)
        deadline = time.monotonic() + timeout
        try:
            with _closed_after(channel, timeout):
                channel.exec_command(line.text)
        except DEAD as error:
            _close(channel)
            if time.monotonic() >= deadline:
                raise self._too_slow(line.argv, timeout) from error
            what = f"`{shown(line.argv)}` could not be started: {_why(error)}"
            raise TransportError(what, node=self.node) from error
        return channel

    def _exchange(self, argv: Argv, chunks: Iterable[bytes], /) -> tuple[int, bytes, bytes]:
        """See files.Exchange: no end in time as long as something moves."""
        line = Line(argv, self._sudo)
        channel = self._start(line, OPEN_WITHIN_S)
        try:
            _send(channel, chain((line.preface,), chunks), lambda: SILENT_S)
            return self._finish(channel, line, lambda: SILENT_S)
        except TimeoutError as error:
            raise DeadlineError(f"a file transfer did not move for {SILENT_S:g} s", node=self.node) from error
        finally:
            _close(channel)

    def _finish(self, channel: paramiko.Channel, line: Line, left: Left) -> tuple[int, bytes, bytes]:
        """Exit code and the command's own output. TimeoutError when `left` seconds, asked anew each time, run out."""
        try:
            out, err = _read(channel, channel.recv, left), _read(channel, channel.recv_stderr, left)
            code = self._exit_code(channel, line.argv, left)
        except TimeoutError:
            raise
        except DEAD as error:
            raise self._cut_off(line.argv) from error
        own = line.own(out)
        if own is None:
            raise line.refused(self.node, out, err)
        return code, own, line.own(err) or b""

    def _channel(self, timeout: float) -> paramiko.Channel:
        """A new session on the connection; on a new connection when the one at hand turns out to be dead."""
        try:
            return self._session(timeout)
        except _LostError:
            self._link.close()  # paramiko's own view of it may lag behind
            return self._session(timeout)

    def _session(self, timeout: float) -> paramiko.Channel:
        transport = self._open()
        try:
            return transport.open_session(window_size=WINDOW_BYTES, timeout=timeout)
        except ChannelException as error:
            hint = "Its sshd may allow too few sessions on a connection (MaxSessions), or forbid this user commands."
            what = f"its SSH server opens no session: {error.text}"
            raise TransportError(what, hint=hint, node=self.node) from error
        except DEAD as error:
            if "Timeout" in str(error):
                what = f"its SSH server opened no session within {timeout:g} s"
                raise DeadlineError(what, hint=CUT_OFF, node=self.node) from error
            raise _LostError(f"the connection was lost: {_why(error)}", hint=CUT_OFF, node=self.node) from error

    def _expanded(self, path: str) -> str:
        return self.home() + path[1:] if path == "~" or path.startswith("~/") else path

    def _exit_code(self, channel: paramiko.Channel, argv: Argv, left: Left) -> int:
        if not channel.status_event.wait(max(0.0, left())):
            raise TimeoutError
        if channel.exit_status == -1 and _lost(channel):
            raise self._cut_off(argv)
        return channel.exit_status

    def _cut_off(self, argv: Argv) -> TransportError:
        return TransportError(f"the connection was lost while `{shown(argv)}` ran", node=self.node)

    def _too_slow(self, argv: Argv, timeout: float) -> DeadlineError:
        return DeadlineError(f"`{shown(argv)}` did not end within {timeout:g} s", node=self.node)


class _LostError(TransportError):
    """The connection turned out to be dead before the command was sent."""


class SshStream:
    """See Stream."""

    def __init__(self, node: str, line: Line, channel: paramiko.Channel) -> None:
        self._node, self._line, self._channel = node, line, channel
        self._closed = False

    def write(self, text: str) -> None:
        try:
            self._channel.sendall(text.encode())
        except DEAD as error:
            raise self._gone() from error

    def lines(self) -> Iterator[str]:
        yield from self._line.lines(iter(self._receive, b""))
        if not self._closed and _lost(self._channel):
            raise self._gone()

    def close(self) -> None:
        self._closed = True
        _close(self._channel)

    def _receive(self) -> bytes:
        """Stdout; stderr is dropped, since unread it would fill the channel's window and hold the command up."""
        try:
            chunk = self._channel.recv(CHUNK)
            while self._channel.recv_stderr_ready():
                self._channel.recv_stderr(CHUNK)
        except DEAD as error:
            if self._closed:
                return b""
            raise self._gone() from error
        return chunk

    def _gone(self) -> TransportError:
        return TransportError(f"`{shown(self._line.argv)}` is no longer connected", node=self._node)


def _send(channel: paramiko.Channel, chunks: Iterable[bytes], left: Left) -> None:
    try:
        for data in chunks:
            for start in range(0, len(data), CHUNK):
                channel.settimeout(max(0.001, left()))
                channel.sendall(data[start : start + CHUNK])
        channel.shutdown_write()
    except TimeoutError:
        raise
    except DEAD:
        return  # it ended without reading all of its input; its exit code says whether that was well


def _read(channel: paramiko.Channel, receive: Callable[[int], bytes], left: Left) -> bytes:
    chunks: list[bytes] = []
    while True:
        channel.settimeout(max(0.001, left()))
        chunk = receive(CHUNK)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _close(channel: paramiko.Channel) -> None:
    """Tells the server, if it can still be told."""
    with suppress(*DEAD):
        channel.close()


@contextmanager
def _closed_after(channel: paramiko.Channel, timeout: float) -> Iterator[None]:
    """paramiko waits without limit for the answer to some requests; closing the channel ends the wait."""
    timer = threading.Timer(timeout, _close, (channel,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _lost(channel: paramiko.Channel) -> bool:
    """Whether the channel ended without the server saying so. A moment passes between paramiko's telling its channels
    and its own thread's end, so that is waited for."""
    transport = channel.get_transport()
    if channel.eof_received:
        transport.join(0.1)
    return not channel.eof_received or not transport.is_active()


def _why(error: Exception) -> str:
    return str(error) or "it was closed"
