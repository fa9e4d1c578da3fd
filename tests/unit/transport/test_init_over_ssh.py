"""llmfleet init, trust and doctor against a real SSH server: from nothing to an inventory that can be checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmfleet.cli.app import main
from llmfleet.planner.inventory.parse import parse

pytestmark = pytest.mark.live


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sshd: Any, home: Path) -> Path:
    """An empty one to work in, and an alias of the server in ssh_config."""
    config = f"Host gpu-box\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User ops\n  IdentityFile ~/.ssh/good\n"
    (home / ".ssh" / "config").write_text(config)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_inventory_is_written_from_the_machine(folder: Path, sshd: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--from-ssh-config", "--cluster", "lab"]) == 0
    assert "1 machine in inventory.yaml" in capsys.readouterr().out
    text = (folder / "inventory.yaml").read_text()
    (node,) = parse(text, nodes_only=True).nodes
    assert (node.host, node.access.port, node.access.user, node.access.key) == (
        "127.0.0.1", sshd.port, "ops", "~/.ssh/good"
    )  # fmt: skip
    assert " cores, " in text
    assert "Python 3." in text
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [r["status"] for r in report["nodes"][0]["results"] if r["name"] in ("reach", "host key", "facts")] == [
        "ok"
    ] * 2


def test_a_second_run_shows_a_difference_and_takes_it_over_when_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "inventory.yaml"
    path.write_text("cluster: x   # mine\nnodes:\n  - {name: other, host: 10.9.9.9}\nservices: [{name: c, model: m}]\n")
    path.chmod(0o640)
    before = path.read_text()
    assert main(["init", "gpu-box"]) == 0
    out = capsys.readouterr().out
    assert "+    host: 127.0.0.1" in out
    assert "Nothing was written" in out
    assert path.read_text() == before
    assert main(["init", "gpu-box", "--merge", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["written"], body["machines"][0]["host"]) == (True, "127.0.0.1")
    assert path.read_text().startswith("cluster: x   # mine\nnodes:\n  - {name: other, host: 10.9.9.9}\n")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [n.host for n in parse(path.read_text()).nodes] == ["10.9.9.9", "127.0.0.1"]
    assert main(["init", "gpu-box"]) == 0
    assert "inventory.yaml agrees with 1 machine" in capsys.readouterr().out


def test_machines_that_cannot_be_asked_stop_no_other(
    folder: Path, home: Path, start_sshd: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = start_sshd()
    config = home / ".ssh" / "config"
    config.write_text(config.read_text() + f"Host new-box\n  HostName 127.0.0.1\n  Port {stranger.port}\n  User ops\n")
    assert main(["init", "gpu-box", "new-box"]) == 3
    said = capsys.readouterr()
    assert "new-box: its host key is not in" in said.err
    assert "llmfleet trust new-box" in said.err
    assert "1 machine in inventory.yaml" in said.out
    assert main(["trust", "new-box", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"][0]["stored"] == ["ssh-ed25519"]


@pytest.mark.parametrize(
    "args", [("init",), ("init", "a b"), ("init", "h", "--jump", "$(x)"), ("init", "gpu-box", "--cluster", "A B")]
)
def test_bad_input(args: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(args)) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (folder / "inventory.yaml").exists()
