"""Many hosts over SSH, beside pyinfra and Ansible: `make bench-ssh`, within some minutes.

500 hosts are addresses of the loopback network with one SSH server behind them (ssh_server.py). Every tool takes the
facts of each and then asks three things more, as a no-op `llmfleet up` does: whether our scripts, the weights and
the processes there are as they should be. Host keys are verified by all, with the same known_hosts and the same key.
Time is from the start of the tool's process to its end; memory is the most that it had at once, with its children.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmfleet.launch.nodes.facts import SCRIPT
from llmfleet.launch.pool import on_each, raise_failures
from llmfleet.launch.transport import Transport, open_transport
from llmfleet.planner.inventory.model import Access, Node

PEERS = ("pyinfra==3.10.0", "ansible-core==2.19.14", "asyncssh==2.24.1")
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench-ssh"
QUESTIONS = ("facts", "version", "weights", "processes")
PORT = 22077
AIM = {"pyinfra": 0.7, "ansible": 0.2}
AIM_MIB = 300


@dataclass(frozen=True, slots=True)
class Result:
    seconds: float
    cpu_s: float
    peak_mib: float
    good: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2, help="of each tool, in turn; the best counts")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that a host takes for one command")
    parser.add_argument("--skip", action="append", default=[], choices=["pyinfra", "ansible"])
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)  # the measured process itself
    asked = parser.parse_args()
    if asked.client:
        client(asked.client)
        return
    python = peers()
    with tempfile.TemporaryDirectory(prefix="bench-ssh-") as name:
        folder = Path(name)
        prepare(folder, asked.hosts)
        server = start_server(python, folder, asked.hosts, asked.delay)
        try:
            tools = {t: argv for t, argv in commands(python, folder).items() if t not in asked.skip}
            results = measure(tools, folder, asked.rounds)
        finally:
            server.kill()
            server.wait()
    report(results, asked.hosts, asked.delay)


def peers() -> Path:
    """The Python of an environment of the benchmark's own, made on first use."""
    python = CACHE / "bin" / "python"
    stamp = CACHE / "-".join(p.replace("==", "_") for p in PEERS)
    if not stamp.exists():
        print("installing", ", ".join(PEERS), flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(CACHE)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True, stderr=subprocess.DEVNULL)
        stamp.touch()
    return python


def addresses(count: int) -> list[str]:
    return [f"127.77.{n // 250}.{n % 250 + 1}" for n in range(count)]


def prepare(folder: Path, count: int) -> None:
    """Keys, known_hosts, answers, and each peer's inventory and list of things to do."""
    for key in ("host", "client"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    hosts = addresses(count)
    (folder / "known").write_text("".join(f"[{h}]:{PORT} {public}\n" for h in hosts))
    (folder / "answers").mkdir()
    facts = subprocess.run(
        [sys.executable, "-", "{}"], stdin=SCRIPT.open(), stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    answers = {"facts": facts, "version": "0123456789abcdef\n", "weights": "4096\n" * 8, "processes": "[]\n"}
    for name, text in answers.items():
        (folder / "answers" / name).write_text(text)
    (folder / "hosts.json").write_text(json.dumps(hosts))
    pyinfra_files(folder, hosts)
    ansible_files(folder, hosts)


def pyinfra_files(folder: Path, hosts: Sequence[str]) -> None:
    data = {
        "ssh_user": "ops", "ssh_port": PORT, "ssh_key": str(folder / "client"), "ssh_allow_agent": False,
        "ssh_look_for_keys": False, "ssh_strict_host_key_checking": "yes",
        "ssh_known_hosts_file": str(folder / "known"),
    }
    (folder / "pyinfra_hosts.py").write_text(f"hosts = [(h, {data!r}) for h in {list(hosts)!r}]\n")
    lines = ["from pyinfra.operations import server"]
    lines += [f"server.shell(name={q!r}, commands=['cat bench-{q}'])" for q in QUESTIONS]
    (folder / "pyinfra_round.py").write_text("\n".join(lines) + "\n")


def ansible_files(folder: Path, hosts: Sequence[str]) -> None:
    """`raw`, which needs no Python there and copies nothing: what Ansible does fastest."""
    options = f"-o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=yes"
    options += " -o ControlMaster=auto -o ControlPersist=15s"
    common = f"ansible_user=ops ansible_port={PORT} ansible_ssh_private_key_file={folder}/client"
    (folder / "ansible_hosts").write_text("[all]\n" + "".join(f"{h} {common}\n" for h in hosts))
    tasks = [{"name": q, "raw": f"cat bench-{q}", "changed_when": False} for q in QUESTIONS]
    (folder / "ansible_round.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    (folder / "ansible.cfg").write_text(
        f"[defaults]\nforks = 50\nhost_key_checking = True\nstdout_callback = minimal\ninterpreter_python = python3\n"
        f"local_tmp = {folder}/ansible-tmp\n[ssh_connection]\npipelining = True\nssh_args = {options}\n"
        f"control_path_dir = {folder}/cp\n"
    )


def start_server(python: Path, folder: Path, count: int, delay_s: float) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("ssh_server.py")
    server = subprocess.Popen([str(python), str(script), str(folder), str(count), str(PORT), str(delay_s)])
    while not (folder / f"ready-{PORT}").exists():
        if server.poll() is not None:
            sys.exit("the SSH server did not start")
        time.sleep(0.1)
    return server


def commands(python: Path, folder: Path) -> Mapping[str, list[str]]:
    beside = python.parent
    return {
        "llmfleet": [sys.executable, __file__, "--client", str(folder)],
        "pyinfra": [
            str(beside / "pyinfra"), "-y", "--parallel", "100", str(folder / "pyinfra_hosts.py"),
            str(folder / "pyinfra_round.py"),
        ],
        "ansible": [
            str(beside / "ansible-playbook"), "-i", str(folder / "ansible_hosts"), str(folder / "ansible_round.yml"),
        ],
    }


def client(folder: Path) -> None:
    """What llmfleet does: connect, ask for facts, then for what each step needs to know, phase by phase."""
    hosts = json.loads((folder / "hosts.json").read_text())
    access = Access(user="ops", port=PORT, key=str(folder / "client"), known_hosts=str(folder / "known"))
    nodes = [Node(name=f"n{number}", host=host, access=access) for number, host in enumerate(hosts)]
    transports: dict[str, Transport] = {}

    def reach(node: Node) -> None:
        transports[node.name] = open_transport(node)
        transports[node.name].connect()

    raise_failures("connect", on_each(nodes, reach))
    for question in QUESTIONS:
        answers = on_each(nodes, lambda n, q=question: transports[n.name].run(("cat", f"bench-{q}"), timeout=60))  # type: ignore[misc]
        raise_failures(question, answers)
        if not all(a.value and a.value.stdout for a in answers):
            sys.exit(f"a host did not answer {question}")
    for transport in transports.values():
        transport.close()


def measure(tools: Mapping[str, list[str]], folder: Path, rounds: int) -> dict[str, Result]:
    """In turn, so that others on the machine disturb all alike; the best round of each."""
    best: dict[str, Result] = {}
    for number in range(rounds):
        for tool, argv in tools.items():
            result = run(tool, argv, folder)
            print(f"round {number + 1}  {tool:9} {result.seconds:7.1f} s  CPU {result.cpu_s:6.1f} s", flush=True)
            if not result.good:
                sys.exit(f"{tool} failed: see {folder}/{tool}.log, which ends with\n" + tail(folder / f"{tool}.log"))
            if tool not in best or result.seconds < best[tool].seconds:
                best[tool] = result
    return best


def run(tool: str, argv: list[str], folder: Path) -> Result:
    env = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "HOME": str(folder)}
    with (folder / f"{tool}.log").open("wb") as log:
        begun, before = time.monotonic(), os.times()
        process = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        memory = Memory(process.pid)
        code = process.wait()
        seconds, after = time.monotonic() - begun, os.times()
    memory.done.set()
    memory.join()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Result(seconds, cpu, memory.peak / 1024, code == 0)


class Memory(threading.Thread):
    """Proportional set sizes of a session's processes, so that what forks share counts once; KiB."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.session, self.peak, self.done = session, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.wait(0.3):
            self.peak = max(self.peak, sum(map(pss, self._members())))

    def _members(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == self.session:
                    found.append(entry.name)
            except ProcessLookupError:
                continue
        return found


def pss(pid: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])


def report(results: Mapping[str, Result], hosts: int, delay_s: float) -> None:
    ours = results["llmfleet"]
    print(f"\n{hosts} hosts, facts and three questions each, {delay_s * 1000:.0f} ms a command\n")
    print("| tool | seconds | CPU seconds | MiB at most | llmfleet's time over it |\n|---|---|---|---|---|")
    for tool, r in results.items():
        share = "" if tool == "llmfleet" else f"{ours.seconds / r.seconds:.2f} (aim {AIM[tool]})"
        print(f"| {tool} | {r.seconds:.1f} | {r.cpu_s:.1f} | {r.peak_mib:.0f} | {share} |")
    print(f"\nmemory: {ours.peak_mib:.0f} MiB (aim {AIM_MIB})")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not shutil.which("ssh-keygen"):
        sys.exit("needs ssh and ssh-keygen of OpenSSH")
    main()
