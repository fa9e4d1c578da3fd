"""Storing host keys: what a real server offers, and what becomes of the file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko
import pytest

from llmfleet.launch.transport.hostkeys import read_known_hosts
from llmfleet.launch.transport.ssh import SshTransport
from llmfleet.launch.transport.trust import Review, Target, demanded, review, store
from llmfleet.planner.errors import HostKeyError, InputError, TransportError
from llmfleet.planner.inventory.model import Access

Connect = Callable[..., SshTransport]


@pytest.fixture
def file(home: Path) -> Path:
    """known_hosts, without a line about the server."""
    path = home / ".ssh" / "known_hosts"
    path.write_text("")
    return path


def asked(sshd: Any, **access: Any) -> Review:
    return review(Target("node-3", "127.0.0.1", Access(user="ops", port=sshd.port, **access)))


def states(found: Review) -> dict[str, str]:
    return {k.key.type: k.state for k in found.keys}


def test_keys_of_every_type_are_shown(sshd: Any, file: Path) -> None:
    sshd.host_keys += [paramiko.ECDSAKey.generate(), paramiko.RSAKey.generate(2048)]
    found = asked(sshd)
    assert states(found) == {"ssh-ed25519": "new", "ecdsa-sha2-nistp256": "new", "ssh-rsa": "new"}
    assert {k.key.blob for k in found.keys} == {k.asbytes() for k in sshd.host_keys}
    assert found.name == f"[127.0.0.1]:{sshd.port}"
    assert sshd.logins == [], "nobody logged in"


def test_what_was_stored_is_trusted(sshd: Any, file: Path, connect: Connect) -> None:
    assert [k.type for k in store(asked(sshd))] == ["ssh-ed25519"]
    connect().connect()
    assert states(asked(sshd)) == {"ssh-ed25519": "known"}
    before = file.read_text()
    assert store(asked(sshd)) == ()
    assert file.read_text() == before


def test_ssh_itself_reads_what_was_stored(sshd: Any, file: Path) -> None:
    store(asked(sshd))
    listed = subprocess.run(["ssh-keygen", "-lf", str(file)], capture_output=True, text=True, check=True).stdout
    assert f"{sshd.host_keys[0].fingerprint} [127.0.0.1]:{sshd.port} (ED25519)" in listed


def test_the_file_is_made_with_its_folder_for_the_owner_alone(sshd: Any, home: Path) -> None:
    store(asked(sshd, known_hosts=str(home / "fleet" / "known_hosts")))
    path = home / "fleet" / "known_hosts"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


def test_other_lines_and_the_mode_stay(sshd: Any, file: Path) -> None:
    file.write_text("# mine\nelsewhere ssh-ed25519 AAAA no newline at the end")
    file.chmod(0o644)
    store(asked(sshd))
    assert file.read_text().splitlines()[:2] == ["# mine", "elsewhere ssh-ed25519 AAAA no newline at the end"]
    assert len(read_known_hosts(str(file)).entries.all) == 1
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_link_to_the_file_stays_a_link(sshd: Any, home: Path, file: Path) -> None:
    link = home / "link"
    link.symlink_to(file)
    store(asked(sshd, known_hosts=str(link)))
    assert link.is_symlink()
    assert len(file.read_text().splitlines()) == 1


def test_a_hashed_file_gets_hashed_lines(sshd: Any, file: Path, hashed: Callable[[str], str], connect: Connect) -> None:
    file.write_text(sshd.known_hosts_line(name=hashed("elsewhere")))
    store(asked(sshd))
    assert "127.0.0.1" not in file.read_text()
    connect().connect()


def test_a_changed_key_is_refused_and_the_file_left_alone(sshd: Any, file: Path, new_key: Any) -> None:
    other = new_key()[1]
    file.write_text("# mine\n" + sshd.known_hosts_line(other))
    before = file.read_text()
    with pytest.raises(HostKeyError) as failure:
        store(asked(sshd))
    assert other.fingerprint in failure.value.message
    assert sshd.host_keys[0].fingerprint in failure.value.message
    assert "known_hosts:2" in failure.value.message
    assert failure.value.hint.endswith("llmfleet trust node-3 --replace")
    assert file.read_text() == before


def test_replacing_takes_the_old_key_out(
    sshd: Any, file: Path, new_key: Any, hashed: Callable[[str], str], connect: Connect
) -> None:
    old, name = new_key()[1], f"[127.0.0.1]:{sshd.port}"
    file.write_text(
        sshd.known_hosts_line(old)
        + sshd.known_hosts_line(old, name=hashed(name))
        + sshd.known_hosts_line(old, name=f"{name},10.0.0.9")
        + sshd.known_hosts_line(old, name="elsewhere")
    )
    store(asked(sshd), replace=True)
    left = [(e.hosts, e.key.blob == old.asbytes()) for e in read_known_hosts(str(file)).entries.all]
    assert left[:2] == [("10.0.0.9", True), ("elsewhere", True)]
    assert len(left) == 3
    connect().connect()


def test_a_key_of_another_type_alone_is_a_change_too(sshd: Any, file: Path) -> None:
    file.write_text(sshd.known_hosts_line(paramiko.RSAKey.generate(2048)))
    assert states(asked(sshd)) == {"ssh-ed25519": "changed"}


def test_a_further_key_of_a_proven_server_is_new(sshd: Any, file: Path) -> None:
    file.write_text(sshd.known_hosts_line())
    sshd.host_keys.append(paramiko.RSAKey.generate(2048))
    assert states(asked(sshd)) == {"ssh-ed25519": "known", "ssh-rsa": "new"}


def test_a_pattern_is_left_to_its_author(sshd: Any, file: Path, new_key: Any) -> None:
    file.write_text(sshd.known_hosts_line(new_key()[1], name="[127.0.0.*]:*"))
    with pytest.raises(InputError, match="is about a pattern"):
        store(asked(sshd), replace=True)


def test_a_revoked_key_is_never_stored(sshd: Any, file: Path) -> None:
    file.write_text("@revoked " + sshd.known_hosts_line())
    with pytest.raises(HostKeyError, match=r"known_hosts:1 revokes"):
        store(asked(sshd), replace=True)


def test_a_demanded_fingerprint(sshd: Any, file: Path) -> None:
    sshd.host_keys.append(paramiko.RSAKey.generate(2048))
    found, wanted = asked(sshd), sshd.host_keys[1].fingerprint
    assert [k.key.type for k in demanded(found, wanted).keys] == ["ssh-rsa"]
    assert demanded(found, wanted.removeprefix("SHA256:")) == demanded(found, wanted)
    with pytest.raises(HostKeyError, match="does not offer a key SHA256:abc; it offers ssh-ed25519 SHA256:"):
        demanded(found, "SHA256:abc")
    with pytest.raises(HostKeyError):
        demanded(found, "")


def test_through_a_jump_host(start_sshd: Any, sshd: Any, home: Path) -> None:
    """The way leads through a jump host that is trusted already, and that one is logged in to."""
    bastion = start_sshd()
    bastion.authorized = sshd.authorized
    path = home / ".ssh" / "known_hosts"
    path.write_text(bastion.known_hosts_line(name=f"[localhost]:{bastion.port}"))
    access = {"jump": f"ops@localhost:{bastion.port}", "key": str(home / ".ssh" / "good")}
    found = asked(sshd, **access)
    assert states(found) == {"ssh-ed25519": "new"}
    assert bastion.logins[-1:] == ["ops key yes"]
    path.write_text("")
    bastion.hang_up()
    with pytest.raises(TransportError, match="host key is not in"):
        asked(sshd, **access, connect_timeout=9)


def test_a_server_that_is_none(sshd: Any, file: Path) -> None:
    sshd.drop_first = 10
    with pytest.raises(TransportError, match="dropped the connection"):
        asked(sshd)
