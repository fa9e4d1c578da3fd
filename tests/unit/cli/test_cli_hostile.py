"""Words that would steer a terminal, and streams that are closed or full."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
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


@pytest.mark.parametrize("arguments", [("plan", HOSTILE), ("estimate", "--model", HOSTILE, "--gpu", "L4"), (HOSTILE,)])
def test_errors_on_a_terminal(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        done = subprocess.run([*PROGRAM, *arguments], stderr=theirs, cwd=tmp_path, check=False, timeout=60)
        os.close(theirs)
        said = screen.read(65536).decode().replace("\r\n", "\n")
    assert done.returncode == 2
    coloured, _, words = said.partition("error: ")
    assert coloured == "\x1b[31m\x1b[1m"
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
