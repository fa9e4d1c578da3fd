"""The systemd unit of `llmfleet watch`: what systemd itself says of it, also with names that mean something to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmfleet.launch.units import watch as units
from llmfleet.launch.units.words import command, quoted
from llmfleet.planner.errors import InputError

PLAIN = """\
[Unit]
Description=llmfleet watch of rag
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/bin/true watch --inventory /srv/rag/inventory.yaml
WorkingDirectory=/srv/rag
Restart=always
RestartSec=10
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths=/srv/rag

[Install]
WantedBy=multi-user.target
"""


def text(folder: Path, *, system: bool = True) -> str:
    argv = ("/bin/true", "watch", "--inventory", str(folder / "inventory.yaml"))
    return units.unit_text("rag", argv, folder, system=system)


def test_the_whole_unit() -> None:
    assert text(Path("/srv/rag")) == PLAIN


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
@pytest.mark.parametrize("name", ["plain", "with space", 'quo"te', "per%cent", "dollar$HOME", "semi;colon", "a\\b"])
@pytest.mark.parametrize("system", [True, False])
def test_systemd_takes_it(tmp_path: Path, name: str, system: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setattr(units, "SYSTEM", tmp_path / "units")
    monkeypatch.setattr(units, "USER", tmp_path / "units")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = units.install("rag", text(folder, system=system), system=system)
    assert path == tmp_path / "units" / "llmfleet-watch-rag.service"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_what_systemd_does_not_take_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "SYSTEM", tmp_path)
    with pytest.raises(InputError, match="systemd does not accept the unit"):
        units.install("rag", PLAIN.replace("/bin/true", "relative/program"), system=True)
    assert list(tmp_path.iterdir()) == []


def test_a_newline_cannot_stand_in_a_unit() -> None:
    with pytest.raises(InputError, match="cannot stand in a unit file"):
        text(Path("/srv/a\nExecStart=/bin/sh"))


def test_quoting() -> None:
    assert quoted("plain") == "plain"
    assert quoted("a b%c") == '"a b%%c"'
    assert quoted('a"b\\c') == '"a\\"b\\\\c"'
    assert quoted("") == '""'


def test_a_dollar_sign_is_doubled_where_it_would_be_a_variable_and_nowhere_else() -> None:
    assert command(("/bin/true", "$HOME", "a $b")) == '/bin/true $$HOME "a $$b"'
    unit = text(Path("/srv/a$b"))
    assert "--inventory /srv/a$$b/inventory.yaml\n" in unit
    assert "WorkingDirectory=/srv/a$b\n" in unit
    assert "ReadWritePaths=/srv/a$b\n" in unit


def test_a_program_with_a_dollar_sign_is_refused() -> None:
    with pytest.raises(InputError, match="systemd cannot start"):
        command(("/opt/a$b/python", "x"))


@pytest.mark.parametrize("path", ["/tmp/fleet", "/var/tmp/fleet/deep"])
def test_what_lies_in_the_temporary_folder_is_seen(path: str) -> None:
    for argv, folder in ((["/opt/bin/llmfleet", "watch"], Path(path)), ([f"{path}/llmfleet", "watch"], Path("/srv"))):
        text = units.unit_text("rag", argv, folder, system=True)
        assert "PrivateTmp" not in text and "ReadWritePaths=/tmp /var/tmp\n" in text
