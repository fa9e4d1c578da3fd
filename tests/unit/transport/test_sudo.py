"""Commands as root through a real sudo, behind a real sshd. Users, passwords and sudoers are of a namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_sshd import SSHD, RealSshd

from llmfleet.launch.nodes.facts import facts_command, facts_request, facts_script, parse_facts
from llmfleet.launch.transport import Transport, open_transport
from llmfleet.launch.transport.shell import Line
from llmfleet.launch.transport.sudo import Sudo
from llmfleet.planner.errors import InputError, SudoError
from llmfleet.planner.inventory.model import Access, Node

USER, UID, PASSWORD, VARIABLE = "llmfleet-ops", 61234, "pa ss'$(id)\"wörd", "FLEET_SUDO_PASSWORD"
SUDOERS = """\
Defaults env_reset, lecture=never, timestamp_timeout=0, passwd_tries=3
Defaults secure_path=/usr/sbin:/usr/bin:/sbin:/bin
root ALL=(ALL:ALL) ALL
{user} ALL=(ALL:ALL) {tag}ALL
"""
# $1: a folder with files for /etc. What sudo remembers of who gave a password goes with the namespace.
INSIDE = """\
for file in passwd shadow sudoers; do mount --bind "$1/$file" "/etc/$file" || exit 1; done
for folder in /run/sudo /var/lib/sudo; do [ ! -d "$folder" ] || mount -t tmpfs tmpfs "$folder" || exit 1; done
shift; exec "$@"
"""
Reach = Callable[..., Transport]
live = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(None in (SSHD, shutil.which("ssh"), shutil.which("sudo")), reason="needs sshd, ssh and sudo"),
]
both = pytest.mark.parametrize("kind", ["ssh", "openssh"])


def marked(test: Any) -> Any:
    for mark in live:
        test = mark(test)
    return both(test)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Pytest's own are for root alone."""
    made = Path(tempfile.mkdtemp(prefix="llmfleet-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def reach(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reach]:
    """A transport to a node whose sudo wants a password, or with `tag="NOPASSWD:"` none."""
    made: list[Transport | RealSshd] = []

    def build(kind: str, *, tag: str = "", **access: Any) -> Transport:
        argv = ["openssl", "passwd", "-6", "-stdin"]
        hashed = subprocess.run(argv, input=PASSWORD, capture_output=True, text=True, check=True).stdout.strip()
        etc = folder / "etc"
        etc.mkdir()
        (etc / "passwd").write_text(
            Path("/etc/passwd").read_text() + f"{USER}:x:{UID}:{UID}::{folder}:/bin/sh\n"
        )
        (etc / "shadow").write_text(Path("/etc/shadow").read_text() + f"{USER}:{hashed}:19000:0:99999:7:::\n")
        (etc / "shadow").chmod(0o640)
        (etc / "sudoers").write_text(SUDOERS.format(user=USER, tag=tag))
        (etc / "sudoers").chmod(0o440)
        inside = ("unshare", "--mount", "sh", "-c", INSIDE, "sh", str(etc))
        server = RealSshd(folder / "sshd", inside=inside)
        made.append(server.start())
        (folder / "known").write_text(server.known_hosts_line())
        monkeypatch.setenv(VARIABLE, PASSWORD)
        usual = {"user": USER, "port": server.port, "key": str(server.key), "transport": kind, "sudo": True}
        known = {"known_hosts": str(folder / "known")}
        node = Node(name="node-3", host="127.0.0.1", access=Access.model_validate({**usual, **known, **access}))
        made.append(open_transport(node))
        return made[-1]

    yield build
    for each in reversed(made):
        each.stop() if isinstance(each, RealSshd) else each.close()


WAYS = pytest.mark.parametrize(
    ("tag", "variable"), [("", VARIABLE), ("NOPASSWD:", None), ("NOPASSWD:", VARIABLE)],
    ids=["password", "none", "password that nobody wants"],
)  # fmt: skip


@marked
@WAYS
def test_commands_files_and_streams_are_roots(
    reach: Reach, folder: Path, kind: str, tag: str, variable: str | None
) -> None:
    node = reach(kind, tag=tag, sudo_password_env=variable)
    assert node.run(("id", "-u")).stdout == "0\n"
    assert node.home() == "/root"
    said = node.run(("sh", "-c", 'cat; echo "$1" >&2; exit 7', "sh", "$(id) 'quoted'\n;"), stdin="first\n\nlast")
    assert (said.stdout, said.stderr, said.exit_code) == ("first\n\nlast", "$(id) 'quoted'\n;\n", 7)
    path, body = folder / "kept" / "file", bytes(range(256)) * 2000
    node.put(body, str(path), mode=0o600)
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)
    assert node.get(str(path)) == body
    assert node.get(str(folder / "none")) is None
    stream = node.stream(("cat",))
    stream.write("one line\n")
    assert next(stream.lines()) == "one line"
    stream.close()
    facts = parse_facts(node.run(facts_command("python3", facts_request()), stdin=facts_script()).stdout)
    assert (facts.user, facts.uid, facts.address) == ("root", 0, "127.0.0.1")


@marked
def test_the_password_is_in_no_argv_and_no_environment(reach: Reach, kind: str) -> None:
    node = reach(kind, sudo_password_env=VARIABLE)
    look = "cat /proc/[0-9]*/cmdline; for e in /proc/$$/environ /proc/$PPID/environ; do cat $e; done"
    said = node.run(("sh", "-c", look))
    assert b"sudo" in said.stdout.encode()
    assert PASSWORD not in said.stdout + said.stderr


@marked
def test_a_wrong_password_and_none_are_told(reach: Reach, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    node = reach(kind, sudo_password_env=VARIABLE)
    monkeypatch.setenv(VARIABLE, "hunter2-planted")
    with pytest.raises(SudoError, match=r"sudo does not let us through: .*try again") as caught:
        node.run(("id",))
    assert "hunter2-planted" not in str(caught.value)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SudoError, match=f"{VARIABLE}, which should hold sudo's password, is not set"):
        node.run(("id",))


@marked
def test_a_sudo_that_wants_a_password_is_told(reach: Reach, kind: str) -> None:
    node = reach(kind)
    with pytest.raises(SudoError, match="a password is required") as caught:
        node.run(("id",))
    assert "sudo_password_env" in caught.value.hint


def test_what_the_login_shell_is_told() -> None:
    line = Line(("id", "-u"), Sudo("n1"))
    text = line.text.decode()
    assert text.startswith('exec sudo -H -n -- env SSH_CONNECTION="$SSH_CONNECTION" sh -c ')
    assert text.endswith("sh id -u")
    assert line.preface == b""


@pytest.mark.parametrize(
    ("access", "words"),
    [({"sudo_password_env": "X"}, "`sudo` is not"), ({"sudo": True, "transport": "local"}, "reached by SSH")],
)
def test_contradictions(access: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_transport(Node(name="n1", host="127.0.0.1", access=Access.model_validate(access)))
