"""What comes back after a reboot, with real processes on loopback: a power cut is SIGKILL for all that there is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from supervised_node import REMOTE, Node, gone, until

pytestmark = pytest.mark.live


def resume(node: Node) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(REMOTE / "resume.py"), str(node.folder)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def power_cut(node: Node, *names: str) -> None:
    for name in names:
        supervisor = node.status(name)["supervisor_pid"]
        pids = node.marked(name) | {supervisor}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda pids=pids: all(gone(pid) for pid in pids))


def left_behind(
    node: Node, name: str, *, kind: str = "engine", argv: tuple[str, ...] = (), state: str = "healthy"
) -> None:
    """The files of a process that ran before the reboot."""
    node.spec(name=name, argv=argv)
    spec = json.loads((node.rundir(name) / "spec.json").read_text())
    (node.rundir(name) / "spec.json").write_text(json.dumps({**spec, "kind": kind}))
    (node.rundir(name) / "status.json").write_text(json.dumps({"state": state, "supervisor_pid": 1}))


def test_what_ran_comes_back_and_what_was_stopped_stays_stopped(node: Node) -> None:
    node.spec()
    node.spec(name="embed")
    for name in ("chat", "embed"):
        node.start(name)
        before = node.comes("healthy", name)
    node.stop("embed")
    power_cut(node, "chat")
    done = resume(node)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["chat: starting", "embed: left as it was, it did not run"]
    after = node.comes("healthy")
    assert after["pid"] != before["pid"]
    assert node.marked("embed") == set()


def test_again_it_changes_nothing(node: Node) -> None:
    node.spec()
    node.start()
    before = node.comes("healthy")
    assert resume(node).stdout == "chat: healthy\n"
    assert node.status()["pid"] == before["pid"]


def test_a_machine_that_shuts_down_in_good_order_ends_processes_for_now_only(node: Node) -> None:
    """Its SIGTERM reaches supervisor and engine alike, and nobody had asked for a stop."""
    node.spec()
    node.start()
    healthy = node.comes("healthy")
    for pid in (healthy["supervisor_pid"], healthy["pid"]):
        os.kill(pid, signal.SIGTERM)
    until(lambda: gone(healthy["supervisor_pid"]))
    ended = node.status()
    assert (ended["state"], ended["last_error"]) == ("exited", "its supervisor is gone")
    assert resume(node).stdout == "chat: starting\n"
    node.comes("healthy")
    node.stop()
    assert resume(node).stdout == "chat: left as it was, it did not run\n"


def test_a_stop_that_a_power_cut_cuts_short_is_still_a_stop(node: Node) -> None:
    node.spec("--drain", "20")
    node.start()
    node.comes("healthy")
    stopping = threading.Thread(target=node.supervise, args=("stop", str(node.rundir())))
    stopping.start()
    node.comes("stopping")
    power_cut(node, "chat")
    stopping.join()
    (node.rundir() / "status.json").write_text('{"state": "stopping"}')  # what the disk had
    assert resume(node).stdout == "chat: left as it was, it did not run\n"


@pytest.mark.parametrize("state", ["failed", "exited"])
def test_what_had_failed_is_for_a_person_to_start(node: Node, state: str) -> None:
    left_behind(node, "chat", state=state)
    done = resume(node)
    assert (done.returncode, done.stdout) == (0, "chat: left as it was, it did not run\n")


def test_what_spans_nodes_is_left_to_up(node: Node) -> None:
    for kind in ("ray-head", "ray-worker", "rank", "application"):
        left_behind(node, kind, kind=kind)
    for script in ("vllm_ray.py", "vllm_rank.py"):
        left_behind(node, script[:-3], argv=(sys.executable, f"/n/bin/{script}", "h1=1,h2=1"))
    done = resume(node)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "application, rank, ray-head, ray-worker, vllm_rank, vllm_ray: left, they belong to what spans nodes: "
        "`llmfleet up` starts them\n"
    )


def test_one_that_does_not_start_keeps_no_other_from_it(node: Node) -> None:
    left_behind(node, "broken", argv=("/nowhere/vllm",))
    left_behind(node, "half")
    (node.rundir("half") / "spec.json").write_text('{"argv": ["/bin')
    left_behind(node, "sound")
    done = resume(node)
    assert done.returncode == 1
    broken, half, sound = done.stdout.splitlines()
    assert broken.startswith("broken: NOT STARTED: cannot start /nowhere/vllm")
    assert half.startswith("half: NOT STARTED: ")
    assert sound == "sound: starting"
    node.comes("healthy", "sound")


def test_temporary_files_went_with_the_reboot(node: Node) -> None:
    tmp = node.folder / "scratch" / "tmp"
    node.spec(env={"TMPDIR": str(tmp)})
    node.start()
    assert tmp.stat().st_mode & 0o777 == 0o700
    assert tmp.parent.stat().st_mode & 0o777 == 0o700
    node.comes("healthy")
    power_cut(node, "chat")
    tmp.rmdir()
    tmp.parent.rmdir()
    assert resume(node).returncode == 0
    assert tmp.is_dir()


def test_a_container_waits_for_its_runtime(node: Node, tmp_path: Path) -> None:
    """Which answers at its third try here."""
    docker, tries = tmp_path / "docker", tmp_path / "tries"
    docker.write_text(f'#!/bin/sh\n[ "$1" = ps ] || exit 0\necho >> {tries}\n[ "$(wc -l < {tries})" -ge 3 ]\n')
    docker.chmod(0o755)
    node.spec(cleanup=(str(docker), "rm", "--force", "chat"))
    node.start()
    node.comes("healthy")
    power_cut(node, "chat")
    assert resume(node).stdout == "chat: starting\n"
    assert tries.read_text() == "\n" * 3
    node.comes("healthy")


def test_an_engine_waits_for_the_nodes_address(tmp_path: Path) -> None:
    """One that no machine has: see RFC 5737."""
    code = (
        f"import sys; sys.path.insert(0, {str(REMOTE)!r}); import ready\n"
        "print([ready.ready({'health_url': 'http://%s:1/health' % h}) for h in ('192.0.2.1', '127.0.0.1')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[False, True]\n", done.stderr


def test_a_node_without_processes(node: Node) -> None:
    done = resume(node)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
