"""llmfleet trust: what it shows, when it asks, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_fleet import INVENTORY, Run

from llmfleet.launch.transport.hostkeys import HostKey
from llmfleet.launch.transport.trust import OfferedKey, Review, State, Target
from llmfleet.planner.errors import DeadlineError

Offers = Callable[..., list[Target]]


def key(kind: str = "ssh-ed25519", seed: int = 1) -> HostKey:
    return HostKey(kind, len(kind).to_bytes(4, "big") + kind.encode() + bytes([seed]) * 32)


@pytest.fixture
def known_hosts(run: Run, tmp_path: Path) -> Path:
    """Also an inventory whose nodes are reached over SSH, one of them by way of a jump host."""
    text = INVENTORY.replace("{transport: fake}", "{known_hosts: known_hosts}")
    text = text.replace("host: 10.0.0.1}", "host: 10.0.0.1, access: {jump: ops@bastion.example:2200}}")
    (tmp_path / "inventory.yaml").write_text(text)
    path = tmp_path / "known_hosts"
    path.write_text("")
    return path


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> Offers:
    """offers(*states): every server offers keys in these states. The list fills with whom it was asked of."""

    def install(*states: State, error: Exception | None = None) -> list[Target]:
        asked: list[Target] = []
        kinds = ("ssh-ed25519", "ssh-rsa")

        def review(target: Target) -> Review:
            asked.append(target)
            if error and target.name == "slot-1":
                raise error
            keys = []
            for kind, state in zip(kinds, states, strict=False):
                old = key(kind, 2) if state == "changed" else None
                keys.append(OfferedKey(key(kind), state, None if state == "new" else 7, old))
            return Review(target, target.host, target.access.known_hosts, tuple(keys))

        monkeypatch.setattr("llmfleet.launch.transport.trust.review", review)
        return asked

    return install


def test_fingerprints_are_shown_and_stored_when_a_person_says_yes(
    run: Run, known_hosts: Path, offers: Offers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    offers("new", "known")
    monkeypatch.setattr("llmfleet.cli.trust.may_ask", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text))
    ran = run("trust", "slot-0")
    assert ran.out.splitlines() == [
        "slot-0 (10.0.0.2)",
        f"  ssh-ed25519          {key().fingerprint.split()[1]}  new",
        f"  ssh-rsa              {key('ssh-rsa').fingerprint.split()[1]}  known already",
        "  1 key stored in known_hosts",
    ]
    assert asked == ["Store 1 key in known_hosts?"]
    assert known_hosts.read_text().startswith("10.0.0.2 ssh-ed25519 AAAA")


def test_a_script_is_not_asked_and_nothing_is_stored(run: Run, known_hosts: Path, offers: Offers) -> None:
    offers("new")
    ran = run("trust", "slot-0")
    assert ran.code == 2
    assert "--fingerprint" in ran.err
    assert known_hosts.read_text() == ""


def test_yes_needs_no_answer(run: Run, known_hosts: Path, offers: Offers) -> None:
    offers("new", "new")
    body = json.loads(run("trust", "slot-0", "slot-1", "--yes", "--json").out)
    assert [n["node"] for n in body["nodes"]] == ["slot-0", "slot-1"]
    assert body["nodes"][0] == {
        "node": "slot-0",
        "name": "10.0.0.2",
        "keys": [
            {"type": kind, "fingerprint": key(kind).fingerprint.split()[1], "state": "new"}
            for kind in ("ssh-ed25519", "ssh-rsa")
        ],
        "stored": ["ssh-ed25519", "ssh-rsa"],
    }
    assert len(known_hosts.read_text().splitlines()) == 4


def test_only_the_demanded_key_is_stored(run: Run, known_hosts: Path, offers: Offers) -> None:
    offers("new", "new")
    wanted = key("ssh-rsa").fingerprint.split()[1]
    assert run("trust", "slot-0", "--fingerprint", wanted).code == 0
    assert [line.split()[1] for line in known_hosts.read_text().splitlines()] == ["ssh-rsa"]
    ran = run("trust", "slot-0", "--fingerprint", "SHA256:other")
    assert ran.code == 3
    assert "does not offer a key SHA256:other" in ran.err
    assert run("trust", "slot-0", "slot-1", "--fingerprint", wanted).code == 2


def test_a_changed_key_is_shown_beside_the_old_one_and_refused(run: Run, known_hosts: Path, offers: Offers) -> None:
    offers("changed")
    ran = run("trust", "slot-0", "--yes")
    assert ran.code == 3
    assert ran.out.splitlines()[1:] == [
        f"  ssh-ed25519          {key().fingerprint.split()[1]}  CHANGED",
        f"  ssh-ed25519          {key(seed=2).fingerprint.split()[1]}  until now, known_hosts:7",
    ]
    assert "llmfleet trust slot-0 --replace" in ran.err
    assert known_hosts.read_text() == ""
    assert run("trust", "slot-0", "--yes", "--replace").code == 0
    assert len(known_hosts.read_text().splitlines()) == 1


def test_what_is_known_needs_no_answer(run: Run, known_hosts: Path, offers: Offers) -> None:
    offers("known")
    ran = run("trust", "slot-0")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "  nothing to store")


def test_a_server_that_is_away_does_not_stop_the_others(run: Run, known_hosts: Path, offers: Offers) -> None:
    offers("new", error=DeadlineError("did not answer", node="slot-1"))
    ran = run("trust", "slot-0", "slot-1", "--yes")
    assert ran.code == 3
    assert "slot-1: did not answer" in ran.err
    assert "10.0.0.2 " in known_hosts.read_text()


def test_jump_hosts_and_hosts_that_are_no_nodes(run: Run, known_hosts: Path, offers: Offers, tmp_path: Path) -> None:
    asked = offers("known")
    ran = run("trust", "head", "ops@bastion.example:2200", "new.example")
    assert ran.err == "new.example is no node of the inventory: taken as a host\n"
    by_name = {t.name: t for t in asked}
    assert by_name["head"].access.jump == "ops@bastion.example:2200"
    bastion = by_name["ops@bastion.example:2200"]
    assert (bastion.host, bastion.access.jump, bastion.access.known_hosts) == (bastion.name, None, "known_hosts")
    (tmp_path / "inventory.yaml").unlink()
    assert run("trust", "new.example").err == ""


def test_a_node_without_ssh_has_no_key(run: Run, known_hosts: Path, offers: Offers, tmp_path: Path) -> None:
    offers("new")
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    ran = run("trust", "slot-0", "--yes")
    assert ran.code == 2
    assert "has no host key" in ran.err
