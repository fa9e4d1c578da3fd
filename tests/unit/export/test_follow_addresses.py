"""The script beside the router: names into addresses, files renamed into place."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from llmfleet.launch.remote import follow_addresses as script


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | int]:
    """What each name answers: an address, or the resolver's error."""
    known: dict[str, str | int] = {}

    def look_up(name: str, *_: object) -> list[tuple[object, ...]]:
        answer = known.get(name, socket.EAI_NONAME)
        if isinstance(answer, int):
            raise socket.gaierror(answer, "no")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """As Kubernetes lays a ConfigMap out: one version behind a link."""
    version = tmp_path / "templates" / "..2026_1"
    (version / "xds" / "eds").mkdir(parents=True)
    (version / "bootstrap.yaml").write_text("start\n")
    (version / "xds" / "cds.yaml").write_text("at 198.18.0.1, 198.18.0.10\n")
    (version / "xds" / "eds" / "chat.yaml").write_text("198.18.0.1\n")
    (version / "names.json").write_text(json.dumps({"198.18.0.1": "chat-0.chat", "198.18.0.10": "chat-1.chat"}))
    (tmp_path / "templates" / "..data").symlink_to("..2026_1")
    for name in ("bootstrap.yaml", "xds", "names.json"):
        (tmp_path / "templates" / name).symlink_to(f"..data/{name}")
    return tmp_path / "templates"


def step(templates: Path, known: dict[str, str]) -> dict[str, str]:
    folder = templates.parent / "out"
    script.step(str(templates), str(folder), known)
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_names_become_addresses_and_nothing_else_changes(templates: Path, dns: dict[str, str | int]) -> None:
    dns |= {"chat-0.chat": "10.1.2.3", "chat-1.chat": "10.1.2.4"}
    assert step(templates, {}) == {
        "bootstrap.yaml": "start\n",
        "xds/cds.yaml": "at 10.1.2.3, 10.1.2.4\n",
        "xds/eds/chat.yaml": "10.1.2.3\n",
    }


def test_who_is_gone_is_gone_and_a_silent_dns_changes_nothing(templates: Path, dns: dict[str, str | int]) -> None:
    known: dict[str, str] = {}
    assert step(templates, known)["xds/cds.yaml"] == "at 198.18.0.1, 198.18.0.10\n"
    dns |= {"chat-0.chat": "10.1.2.3", "chat-1.chat": "10.1.2.4"}
    step(templates, known)
    dns |= {"chat-0.chat": socket.EAI_AGAIN, "chat-1.chat": socket.EAI_NONAME}
    assert step(templates, known)["xds/cds.yaml"] == "at 10.1.2.3, 198.18.0.10\n"


def test_a_file_is_only_touched_when_it_changes(templates: Path, dns: dict[str, str | int]) -> None:
    dns["chat-1.chat"] = "10.1.2.4"
    known: dict[str, str] = {}
    step(templates, known)
    out = templates.parent / "out"
    before = {p: p.stat().st_ino for p in out.rglob("*.yaml")}
    dns["chat-0.chat"] = "10.1.2.3"
    step(templates, known)
    changed = {p.name for p, inode in before.items() if p.stat().st_ino != inode}
    assert changed == {"cds.yaml", "chat.yaml"}
    assert not [*out.rglob("*.new")]


def test_endpoints_come_first_and_the_start_file_last(
    templates: Path, dns: dict[str, str | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    put = script.put
    monkeypatch.setattr(script, "put", lambda path, text: (written.append(Path(path).name), put(path, text)))
    step(templates, {})
    assert written == ["chat.yaml", "cds.yaml", "bootstrap.yaml"]
