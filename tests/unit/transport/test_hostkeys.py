"""The known_hosts reader against the forms that OpenSSH writes, and against rubbish."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfleet.launch.transport.hostkeys import HostKey, KnownHosts, name_of, read_known_hosts, verify
from llmfleet.planner.errors import HostKeyError


def key(seed: int = 1, kind: str = "ssh-ed25519") -> HostKey:
    return HostKey(kind, len(kind).to_bytes(4, "big") + kind.encode() + bytes([0, 0, 0, 32]) + bytes([seed]) * 32)


def line(hosts: str, of: HostKey) -> str:
    return f"{hosts} {of.type} {base64.b64encode(of.blob).decode()}"


def known(tmp_path: Path, *lines: str) -> KnownHosts:
    file = tmp_path / "known_hosts"
    file.write_text("\n".join(lines) + "\n")
    return read_known_hosts(str(file))


def test_the_fingerprint_is_the_one_of_ssh_keygen() -> None:
    # ssh-keygen -lf of this line prints the same
    blob = base64.b64decode("AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB")
    assert HostKey("ssh-ed25519", blob).fingerprint == "ssh-ed25519 SHA256:RXm/ruZ0eTzRXKwi1AQEDynB0VgHQ2ac9KPSFdf/YnA"


@pytest.mark.parametrize(
    ("hosts", "name", "matches"),
    [
        ("node", "node", True),
        ("node", "NODE", True),
        ("Node", "node", True),
        ("node", "node2", False),
        ("other,node", "node", True),
        ("node,10.0.0.7", "10.0.0.7", True),
        ("node", "[node]:2222", False),
        ("[node]:2222", "[node]:2222", True),
        ("[node]:2222", "node", False),
        ("gpu-*.example", "gpu-12.example", True),
        ("gpu-?", "gpu-12", False),
        ("*,!bad", "bad", False),
        ("*,!bad", "good", True),
        ("!bad", "good", False),
        ("[a-z]", "b", False),
        ("a.c", "abc", False),
        ("|1|broken", "node", False),
        ("|1|!!!|!!!", "node", False),
    ],
)
def test_names(tmp_path: Path, hosts: str, name: str, matches: bool) -> None:
    assert bool(known(tmp_path, line(hosts, key())).keys_of(name)) is matches


def test_hashed_names(tmp_path: Path, hashed: Callable[[str], str]) -> None:
    entries = known(tmp_path, line(hashed("[node]:2222"), key()))
    assert entries.keys_of("[node]:2222")
    assert not entries.keys_of("node")


def test_port_22_is_not_named() -> None:
    assert (name_of("node", 22), name_of("node", 2222), name_of("::1", 22)) == ("node", "[node]:2222", "::1")


def test_lines_that_make_no_sense_do_not_hide_the_others(tmp_path: Path) -> None:
    wrong_type = line("node", key()).replace("ssh-ed25519 ", "ssh-rsa ")
    rubbish = [
        "",
        "#node x y",
        "node",
        "node ssh-ed25519",
        "node ssh-ed25519 ###",
        "@new node a b",
        "@revoked",
        wrong_type,
    ]
    entries = known(tmp_path, *rubbish, line("node", key()) + " a comment").keys_of("node")
    assert [(e.line, e.key) for e in entries] == [(9, key())]


@given(st.binary(max_size=300))
def test_no_file_content_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("known") / "known_hosts"
    file.write_bytes(content + b"\n" + line("node", key()).encode() + b"\n")
    assert [e.key for e in read_known_hosts(str(file)).keys_of("node") if e.key == key()]


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    assert not known(tmp_path, "#").keys_of("node")
    assert known(tmp_path, line("node", key())).keys_of("node")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="cannot be read"):
        read_known_hosts(str(tmp_path))


def check(entries: KnownHosts, offered: HostKey) -> None:
    verify(entries, "node", offered, node="n", scan="ssh-keyscan node")


def test_any_of_several_keys_of_one_type_will_do(tmp_path: Path) -> None:
    entries = known(tmp_path, line("node", key(1)), line("node", key(2)))
    check(entries, key(2))
    with pytest.raises(HostKeyError, match="changed"):
        check(entries, key(3))


def test_another_type_than_the_known_one_is_a_change(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match=r"known_hosts:1 has ssh-ed25519 .* it offers ssh-rsa "):
        check(known(tmp_path, line("node", key())), key(kind="ssh-rsa"))


def test_a_revocation_counts_only_for_its_hosts_and_its_key(tmp_path: Path) -> None:
    good = line("node", key(1))
    check(known(tmp_path, good, line("@revoked elsewhere", key(1)), line("@revoked *", key(2))), key(1))
    with pytest.raises(HostKeyError, match=":2 revokes"):
        check(known(tmp_path, good, line("@revoked *", key(1))), key(1))


def test_an_authority_vouches_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="count with `transport: openssh` only"):
        check(known(tmp_path, line("@cert-authority *", key())), key())
