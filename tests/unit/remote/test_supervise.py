"""The supervisor with real processes on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from supervised_node import Node, gone, until

from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.scratch import scratch_folder

pytestmark = pytest.mark.live


def test_start_runs_the_process_and_stop_leaves_nothing(node: Node) -> None:
    process = node.spec("--grandchild", env={"GREETING": "hello"})
    started = node.start()
    assert started["state"] == "starting"
    assert started["digest"] == process.digest
    healthy = node.comes("healthy")
    assert healthy["pid"] == started["pid"]
    assert healthy["healthy_since"] >= healthy["started_at"]
    assert node.status() == healthy
    assert len(node.marked()) == 2

    stopped = node.stop()
    assert (stopped["state"], stopped["pid"], stopped["last_exit"]) == ("exited", None, 0)
    assert node.marked() == set()
    assert gone(healthy["supervisor_pid"])
    assert f"engine double {healthy['pid']} hello" in node.log()
    assert "drained" in node.log()


def test_second_start_changes_nothing(node: Node) -> None:
    node.spec()
    first = node.start()
    node.comes("healthy")
    second = node.start()
    assert (second["pid"], second["supervisor_pid"]) == (first["pid"], first["supervisor_pid"])
    assert len(node.marked()) == 1


def test_start_with_another_spec_replaces_the_process(node: Node) -> None:
    node.spec()
    first = node.start()
    process = node.spec("--drain", "0")
    second = node.start()
    assert gone(first["pid"])
    assert gone(first["supervisor_pid"])
    assert second["digest"] == process.digest
    assert node.marked() == {second["pid"]}


def test_starts_at_the_same_time_make_one_process(node: Node) -> None:
    node.spec()
    with ThreadPoolExecutor(4) as pool:
        statuses = [f.result() for f in [pool.submit(node.start) for _ in range(4)]]
    assert len({s["pid"] for s in statuses}) == 1
    assert node.marked() == {statuses[0]["pid"]}


def test_a_killed_process_is_restarted(node: Node) -> None:
    node.spec("--grandchild")
    node.start()
    first = node.comes("healthy")
    os.kill(first["pid"], signal.SIGKILL)
    second = node.comes("healthy", restarts=1)
    assert second["pid"] != first["pid"]
    assert second["last_exit"] == -9
    assert second["supervisor_pid"] == first["supervisor_pid"]
    assert len(node.marked()) == 2, "the first life's grandchild is gone, the second's is there"


def test_three_early_deaths_are_a_failure_that_says_why(node: Node) -> None:
    node.spec("--exit", "3")
    node.start()
    failed = node.comes("failed")
    assert failed["last_exit"] == 3
    assert failed["restarts"] == 2
    assert failed["last_error"] == "exit code 3: ValueError: no KV cache fits"
    assert node.log().count("engine double") == 3
    until(lambda: gone(failed["supervisor_pid"]))
    assert node.status()["state"] == "failed", "the word of a supervisor that failed stands"


def test_a_command_that_does_not_exist_fails_at_once(node: Node) -> None:
    node.spec(argv=("/nowhere/vllm", "serve"))
    done = node.supervise("start", str(node.rundir()))
    assert done.returncode == 1
    status = json.loads(done.stdout)
    assert status["state"] == "failed"
    assert "cannot start /nowhere/vllm" in status["last_error"]


def test_a_failed_process_can_be_started_again(node: Node) -> None:
    node.spec(argv=("/nowhere/vllm",))
    assert node.start()["state"] == "failed"
    node.spec()
    assert node.start()["state"] == "starting"
    assert node.comes("healthy")["restarts"] == 0


def test_never_healthy_in_time_is_a_failure(node: Node) -> None:
    node.spec("--silent", start_within_s=1.5)
    node.start()
    failed = node.comes("failed")
    assert "never came up" in failed["last_error"]
    assert failed["restarts"] == 0
    assert node.marked() == set()


def test_a_foreign_server_on_the_port_is_no_health(node: Node) -> None:
    port = node.spec().argv[3]
    other = node.spec("--port", port, name="other", health_url=f"http://127.0.0.1:{port}/health")
    assert node.start()["state"] == "starting"
    node.comes("healthy")
    status = node.start("other")
    assert status["state"] == "failed"
    assert status["last_error"] == f"something else already answers at {other.health_url}"


def test_a_hanging_process_is_killed_and_restarted(node: Node) -> None:
    node.spec(hang_after_s=1.0)
    node.start()
    first = node.comes("healthy")
    os.kill(first["pid"], signal.SIGSTOP)
    second = node.comes("healthy", restarts=1)
    assert second["pid"] != first["pid"]
    assert second["last_exit"] == -9
    assert gone(first["pid"])


def test_stop_lets_the_process_finish_its_work(node: Node) -> None:
    node.spec("--drain", "1.5", "--grandchild")
    node.start()
    healthy = node.comes("healthy")
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(node.stop)
        node.comes("stopping")
        assert not gone(healthy["pid"])
        assert len(node.marked()) == 2, "only the process itself was told"
        assert stopping.result()["last_exit"] == 0
    assert "drained" in node.log()


def test_a_stubborn_process_is_killed_after_its_grace(node: Node) -> None:
    node.spec("--stubborn", "--grandchild", stop_grace_s=0.5)
    node.start()
    node.comes("healthy")
    stopped = node.stop()
    assert (stopped["state"], stopped["last_exit"]) == ("exited", -9)
    assert node.marked() == set()


def test_stop_with_less_grace_than_the_spec(node: Node) -> None:
    node.spec("--stubborn", stop_grace_s=600.0)
    node.start()
    node.comes("healthy")
    assert node.stop("chat", "--grace", "0.5")["state"] == "exited"
    assert node.marked() == set()


def test_stop_during_backoff_ends_at_once(node: Node) -> None:
    node.spec("--exit", "1")
    node.start()
    node.comes("starting", pid=None, restarts=2)  # two seconds until the third life
    assert node.stop()["state"] == "exited"
    assert node.log().count("engine double") == 2


def test_a_killed_supervisor_takes_its_process_along_and_the_next_recovers(node: Node) -> None:
    node.spec("--grandchild")
    node.start()
    first = node.comes("healthy")
    (orphan,) = node.marked() - {first["pid"]}
    os.kill(first["supervisor_pid"], signal.SIGKILL)
    until(lambda: gone(first["pid"]))
    lost = node.status()
    assert (lost["state"], lost["pid"], lost["last_error"]) == ("exited", None, "its supervisor is gone")
    assert not gone(orphan)

    second = node.start()
    assert gone(orphan), "leftovers are ended before anything new starts"
    assert node.comes("healthy")["pid"] == second["pid"]
    assert len(node.marked()) == 2


def test_a_process_without_a_health_url_is_healthy_once_it_has_settled(node: Node) -> None:
    node.spec(argv=(sys.executable, "-c", "import time; time.sleep(600)"), health_url=None)
    assert node.start()["state"] == "starting"
    assert node.comes("healthy")["restarts"] == 0


@pytest.mark.parametrize(("code", "state"), [(0, "exited"), (4, "failed")])
def test_without_restart_the_end_is_the_end(node: Node, code: int, state: str) -> None:
    node.spec("--exit", str(code), restart=False)
    node.start()
    assert node.comes(state)["last_exit"] == code
    assert node.log().count("engine double") == 1


def test_sweep_ends_what_is_ours_and_nothing_else(node: Node, foreign: subprocess.Popen[bytes]) -> None:
    node.spec("--stubborn", "--grandchild")
    node.spec("--stubborn", name="embed")
    pids = {node.start(name)[pid] for name in ("chat", "embed") for pid in ("pid", "supervisor_pid")}
    node.comes("healthy")
    done = node.supervise("sweep", str(node.folder))
    killed = set(json.loads(done.stdout)["killed"])
    assert killed >= pids
    assert all(gone(pid) for pid in pids)
    assert node.marked("chat") | node.marked("embed") == set()
    assert foreign.poll() is None
    assert json.loads(node.supervise("sweep", str(node.folder)).stdout) == {"killed": []}


def test_a_log_over_its_limit_is_turned_over(node: Node) -> None:
    node.spec()
    with (node.rundir() / "log").open("wb") as log:
        log.truncate((50 << 20) + 1)
    node.start()
    node.comes("healthy")
    assert node.log().startswith("engine double")
    assert (node.rundir() / "log.1").stat().st_size == (50 << 20) + 1


def test_status_of_what_never_ran(node: Node) -> None:
    status = node.status("nothing")
    assert (status["name"], status["state"], status["last_error"]) == ("nothing", "exited", "never started")


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}"])
def test_a_spec_that_is_none_is_said_in_a_line(node: Node, text: str | None) -> None:
    node.rundir().mkdir(parents=True)
    if text is not None:
        (node.rundir() / "spec.json").write_text(text)
    done = node.supervise("start", str(node.rundir()))
    assert done.returncode == 2
    assert done.stderr.strip() == f"{node.rundir()}/spec.json is missing or names no argv"


def test_sweep_removes_scratch_folders(node: Node) -> None:
    deep = Node(node.folder / "a-cluster-with-a-long-name" / "a-node-with-a-long-name")
    folders = [Path(scratch_folder(NodeFolder(str(n.folder)))) for n in (node, deep)]
    inside = node.folder / "scratch"
    for folder in (*folders, inside):
        (folder / "session").mkdir(parents=True, exist_ok=True)
    node.supervise("sweep", str(node.folder))
    node.supervise("sweep", str(deep.folder))
    assert not any(folder.exists() for folder in (*folders, inside))


def test_stop_of_what_never_ran_is_no_error(node: Node) -> None:
    assert node.stop("nothing")["state"] == "exited"


def test_what_no_signal_reaches_is_cleaned_up_before_each_life_and_after(node: Node, tmp_path: Path) -> None:
    """As a container, which outlives the client that started it."""
    told = tmp_path / "told"
    node.spec(cleanup=("sh", "-c", f"echo $WHO >> {told}"), env={"WHO": "client"})
    first = node.start()
    node.comes("healthy")
    assert told.read_text() == "client\n"
    os.kill(first["pid"], signal.SIGKILL)
    node.comes("healthy", restarts=1)
    assert told.read_text() == "client\n" * 2
    node.stop()
    assert told.read_text() == "client\n" * 4, "by the supervisor, and by the command that stops it"


def test_sweep_cleans_up_also_where_the_supervisor_was_killed(node: Node, tmp_path: Path) -> None:
    told = tmp_path / "told"
    node.spec(cleanup=("sh", "-c", f"echo x >> {told}"))
    node.start()
    healthy = node.comes("healthy")
    told.unlink()
    os.kill(healthy["supervisor_pid"], signal.SIGKILL)
    node.supervise("sweep", str(node.folder))
    assert told.read_text() == "x\n"
    assert node.marked() == set()


def test_a_cleanup_that_is_no_command_is_no_obstacle(node: Node) -> None:
    node.spec(cleanup=("/no/such/docker", "rm"))
    node.start()
    node.comes("healthy")
    assert node.stop()["state"] == "exited"


def test_a_unit_that_systemd_does_not_have_is_told_in_its_words(node: Node) -> None:
    node.spec(unit="llmfleet-none@chat.service", at_boot=True)
    done = node.supervise("start", str(node.rundir()))
    assert done.returncode == 1
    assert done.stderr.startswith("systemctl enable llmfleet-none@chat.service: ")
    assert json.loads(done.stdout)["state"] == "exited"
    assert node.marked() == set()
