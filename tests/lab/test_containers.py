"""Engines in real containers: podman runs an engine double under the supervisor, by the command line that `up` makes.

The image is this machine's own Python and nothing else; images of engines are too large to be had here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmfleet.launch.commands.container import container_name, in_container
from llmfleet.launch.fleet import NodeFolder
from llmfleet.launch.nodes.process import Process
from llmfleet.planner.inventory.model import Node, Runtime
from llmfleet.planner.plan import Budget, Expected, Instance
from tests.lab.podman import IMAGE, podman_in, run
from tests.lab.system import LabUnavailableError

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
DOUBLE = ROOT / "tests" / "unit" / "remote" / "engine_double.py"
SUPERVISE = ROOT / "launch" / "remote" / "supervise.py"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a podman that keeps all it makes in a folder of the test's."""
    try:
        own = podman_in(tmp_path_factory.mktemp("podman"))
    except LabUnavailableError as error:
        pytest.skip(str(error))
    yield own
    run("podman", "rm", "--all", "--force", env=own)


class Contained:
    """A node's folder with one engine in a container."""

    def __init__(self, folder: Path, env: dict[str, str], *arguments: str) -> None:
        self.env, self.root = env, NodeFolder(str(folder))
        self.rundir = folder / "run" / "chat"
        self.rundir.mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "weights").mkdir()
        shutil.copy(DOUBLE, folder / "weights" / "engine.py")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = in_container(
            instance(str(folder / "weights")),
            Node(name="n1", host="127.0.0.1", runtime=Runtime(kind="podman", image=IMAGE)),
            Process(
                "chat", "n1", "engine", ("python3", f"{folder}/weights/engine.py", "--port", str(port), *arguments),
                {"GREETING": "hello from inside"}, f"http://127.0.0.1:{port}/health", stop_grace_s=100, hang_after_s=3,
            ),
            self.root,
        )  # fmt: skip
        self.name = container_name(self.root, "chat")
        (self.rundir / "spec.json").write_text(json.dumps(process.spec()))

    def supervise(self, command: str, folder: Path | None = None) -> Any:
        done = run(sys.executable, str(SUPERVISE), command, str(folder or self.rundir), env=self.env)
        assert done.returncode == 0, done.stderr + done.stdout + self.log()
        return json.loads(done.stdout)

    def log(self) -> str:
        path = self.rundir / "log"
        return path.read_text() if path.exists() else ""

    def containers(self) -> list[str]:
        return run("podman", "ps", "--all", "--format", "{{.Names}}", env=self.env).stdout.split()

    def comes(self, state: str, **also: Any) -> dict[str, Any]:
        def reached() -> Any:
            found = json.loads((self.rundir / "status.json").read_text())
            return found if found["state"] == state and all(found[k] == v for k, v in also.items()) else None

        found: dict[str, Any] = until(reached, self.log)
        return found


def until(condition: Callable[[], Any], why: Callable[[], str]) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited in vain: {why()}")


def instance(weights: str) -> Instance:
    return Instance(
        id="chat", service="chat", model="m", task="generate", engine="vllm", engine_version="0.33.0", image=None,
        nodes=("n1",), gpus={"n1": (0,)}, tp=1, pp=1, pp_partition=None, dtype="fp32", quantization=None,
        kv_cache_dtype="auto", max_model_len=1024, max_num_seqs=1, max_num_batched_tokens=512,
        kv_cache_memory_bytes=1, gpu_memory_utilization=0.9, port=8100, budget=Budget(1, 0, 0, 0, 0, 0, 0),
        expected=Expected(1, 1, 1, 1, (1, 1), (1, 1)), weight=1, max_concurrency=1, reason="", weights_path=weights,
        accelerator="cpu",
    )  # fmt: skip


@pytest.fixture
def contained(podman: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Contained]]:
    made: list[Contained] = []

    def build(*arguments: str) -> Contained:
        made.append(Contained(tmp_path / f"node{len(made)}", podman, *arguments))
        return made[-1]

    yield build
    for each in made:
        each.supervise("sweep", Path(each.root.root))
        assert each.name not in each.containers()


def test_an_engine_runs_in_its_container_and_drains_when_it_is_stopped(contained: Callable[..., Contained]) -> None:
    one = contained()
    one.supervise("start")
    one.comes("healthy")
    assert one.containers() == [one.name]
    assert "hello from inside" in one.log()
    look = "import os; print(*(os.readlink(f'/proc/self/ns/{kind}') for kind in ('ipc', 'net', 'mnt')))"
    inside = run("podman", "exec", one.name, "python3", "-c", look, env=one.env).stdout.split()
    here = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("ipc", "net", "mnt")]  # noqa: PTH115
    assert [a == b for a, b in zip(inside, here, strict=True)] == [True, True, False], (inside, here)
    stopped = one.supervise("stop")
    assert (stopped["state"], stopped["last_exit"]) == ("exited", 0)
    assert "drained" in one.log(), "SIGTERM reached the engine inside"
    assert one.containers() == []


def test_a_killed_client_leaves_no_second_container(contained: Callable[..., Contained]) -> None:
    """The container outlives its client: it is gone before the next one starts, or the port would be taken."""
    one = contained()
    pid = one.supervise("start")["pid"]
    one.comes("healthy")
    os.kill(pid, signal.SIGKILL)
    one.comes("healthy", restarts=1)
    assert one.containers() == [one.name]


def test_a_killed_supervisor_is_succeeded(contained: Callable[..., Contained]) -> None:
    one = contained()
    one.supervise("start")
    os.kill(one.comes("healthy")["supervisor_pid"], signal.SIGKILL)
    one.supervise("start")
    one.comes("healthy", restarts=0)
    assert one.containers() == [one.name]


def test_the_container_sees_weights_and_scripts_read_only_and_nothing_else(contained: Callable[..., Contained]) -> None:
    one = contained()
    one.supervise("start")
    one.comes("healthy")
    look = (
        "import os,sys; root=sys.argv[1]; print(sorted(os.listdir(root)));\n"
        "try: open(root + '/weights/x', 'w')\nexcept OSError as e: print(e.strerror)"
    )
    seen = run("podman", "exec", one.name, "python3", "-c", look, one.root.root, env=one.env)
    assert seen.stdout.splitlines() == ["['bin', 'weights']", "Read-only file system"], seen.stderr
