"""Words that would steer a terminal, and streams that are closed or full."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from llmfleet.cli.console import SafeConsole
from llmfleet.cli.logs import _on_screen
from llmfleet.cli.printable import printable
from llmfleet.cli.progress import PlainProgress
from llmfleet.launch.events import Note

PROGRAM = [sys.executable, "-m", "llmfleet.cli.app"]
HOSTILE = "a\x1b[31mred\x1b]0;title\x07\x9b2J\u202eturned\r"
STEERS = set("\x1b\x07\x9b\u202e\r")


@given(st.text())
def test_what_is_printable_stays_and_nothing_else(text: str) -> None:
    clean = printable(text)
    assert len(clean) == len(text)
    assert all(c == was for c, was in zip(clean, text, strict=True) if was.isprintable() or was in "\n\t\xa0\u3000")
    assert not [c for c in clean.replace("\n", "").replace("\t", "") if not c.isprintable() and not c.isspace()]
    assert printable(clean) == clean


def test_neither_tables_nor_progress_nor_logs_pass_it_on() -> None:
    out = io.StringIO()
    table = Table(HOSTILE)
    table.add_row(Text(HOSTILE))
    SafeConsole(file=out, width=200).print(table, HOSTILE)
    PlainProgress(out)(Note(HOSTILE, HOSTILE))
    assert "red" in out.getvalue()
    assert not STEERS & set(out.getvalue())
    assert not STEERS & set(_on_screen(HOSTILE))


def test_colours_and_overwritten_bars_of_a_log_become_plain_words() -> None:
    assert _on_screen("\x1b[36m(worker)\x1b[0m ready\tnow") == "(worker) ready\tnow"
    assert _on_screen("Loading:   0%\rLoading: 100%") == "Loading: 100%"


def on_terminal(*arguments: str, cwd: Path, columns: int = 100, **environment: str) -> str:
    """What a terminal of so many columns gets to see."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    there = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment}
    shown = []
    with subprocess.Popen([*PROGRAM, *arguments], stdout=theirs, stderr=theirs, cwd=cwd, env=there):
        os.close(theirs)
        with suppress(OSError):  # so Linux ends a terminal whose other side is closed
            while part := os.read(ours, 65536):
                shown.append(part)
        os.close(ours)
    return b"".join(shown).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("arguments", [("plan", HOSTILE), ("estimate", "--model", HOSTILE, "--gpu", "L4"), (HOSTILE,)])
def test_errors_on_a_terminal(arguments: tuple[str, ...], tmp_path: Path) -> None:
    coloured, _, words = on_terminal(*arguments, cwd=tmp_path).partition("error: ")
    assert coloured == "\x1b[31m\x1b[1m"
    assert "a\N{REPLACEMENT CHARACTER}[31mred" in words or "a\\x1b[31mred" in words
    assert not STEERS & set(words.removeprefix("\x1b[0m"))


def test_usage_errors_look_like_all_others() -> None:
    done = subprocess.run([*PROGRAM, "plan", "--bogus", "--json"], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[0].startswith("error: No such option: --bogus")
    assert done.stderr.splitlines()[1:] == ["  → llmfleet plan --help"]
    assert json.loads(done.stdout)["error"]["hint"] == "llmfleet plan --help"


@pytest.mark.parametrize("arguments", [("estimate", "--list-gpus"), ("estimate", "--list-gpus", "--json")])
def test_full_disk_is_said_once(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: no space is left on the device"
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)])
def test_closed_streams_are_no_error(closed: str, code: int) -> None:
    shell = f"{sys.executable} -m llmfleet.cli.app estimate --list-gpus {closed}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_nobody_wants_them(plain: dict[str, str], tmp_path: Path) -> None:
    assert "\x1b" in on_terminal("plan", cwd=tmp_path)
    assert "\x1b" not in on_terminal("plan", cwd=tmp_path, **plain)


def test_figures_are_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    reference = Path(__file__).resolve().parents[3] / "inventory.example.yaml"
    said = on_terminal("plan", str(reference), "--no-write", cwd=tmp_path, columns=40)
    assert "2.04 → 2.91/s  1.17 s  68 ms" in said


def test_a_sign_of_life_on_a_terminal_while_nodes_are_asked(tmp_path: Path) -> None:
    access = "{user: ops, key: ./none, known_hosts: ./none}"
    (tmp_path / "inventory.yaml").write_text(
        f"cluster: t\naccess: {access}\nnodes: [{{name: a, host: 127.0.0.1, gpus: 1 x L4}}]\nservices: []\n"
    )
    said = on_terminal("doctor", cwd=tmp_path)
    assert "asking the nodes" in said
    assert "1 not reached" in said.rpartition("asking the nodes")[2]
    piped = subprocess.run([*PROGRAM, "doctor"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert piped.returncode == 3
    assert "asking" not in piped.stdout + piped.stderr
