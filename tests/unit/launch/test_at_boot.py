"""The unit for reboots on simulated nodes: put there, left alone, taken away, and what may be wrong with that."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from sim_fleet import HOME, PIPELINE, Sim, SimNode, errors_of, make_inventory, make_plan

from llmfleet.launch.down import down
from llmfleet.launch.forget import forget
from llmfleet.launch.transport.base import Argv, Completed
from llmfleet.launch.up import UpOptions, up
from llmfleet.planner.errors import NodesError
from llmfleet.planner.inventory.model import Runtime

NAME = "llmfleet-rag-h1.service"
OWN, ROOTS = f"/home/ops/.config/systemd/user/{NAME}", f"/etc/systemd/system/{NAME}"
INSTALL, REMOVE = ("h1", f"start engines at boot: {NAME}"), ("h1", f"start nothing at boot: remove {NAME}")


class Systemd:
    """Of one node: what systemctl was told, and what is enabled."""

    def __init__(self, node: SimNode) -> None:
        self.told: list[str] = []
        self.enabled: set[str] = set()
        self.refuses = ""
        node.handle("systemctl", self._answer)

    def _answer(self, argv: Argv, _stdin: str | None) -> Completed:
        words = argv[1:] if argv[0] == "systemctl" else argv[4:]
        own = "" if argv[0] == "systemctl" else "--user "
        if words[0] == self.refuses:
            return Completed(argv, 1, "", "Failed to connect to bus: No medium found\n")
        if words[0] == "is-enabled":
            return Completed(argv, 0 if words[-1] in self.enabled else 1, "", "")
        self.told.append(own + " ".join(words))
        if words[0] == "enable":
            self.enabled.add(words[-1])
        if words[0] == "disable":
            self.enabled.discard(words[-1])
        return Completed(argv, 0, "", "")


@pytest.fixture
def systemd(running: Sim) -> Systemd:
    """A fleet that is up, one node of which is to come back after reboots from now on."""
    ask(running)
    return Systemd(running.nodes["h1"])


def ask(sim: Sim, *, at_boot: bool = True) -> None:
    sim.inventory = make_inventory(h1={"runtime": Runtime(at_boot=at_boot)})


def changed(sim: Sim, **options: bool) -> list[tuple[str, str]]:
    return [(c.node, c.title) for c in up(sim.fleet, UpOptions(**options)).changed]


def test_up_installs_it_once(running: Sim, systemd: Systemd) -> None:
    assert changed(running, dry_run=True) == [INSTALL]
    assert (systemd.told, OWN in running.nodes["h1"].files) == ([], False)
    assert changed(running) == [INSTALL]
    assert systemd.told == ["--user daemon-reload", f"--user enable {NAME}"]
    node = running.nodes["h1"]
    folder = node.folder.root
    assert f"ExecStart=/usr/bin/python3 {folder}/bin/resume.py {folder}\n" in node.files[OWN].decode()
    assert f"{folder}/bin/resume.py" in node.files
    assert node.modes[OWN] == 0o644
    assert changed(running) == []
    assert not any(path.endswith(".service") for n, other in running.nodes.items() if n != "h1" for path in other.files)


def test_root_has_it_for_the_system(running: Sim, systemd: Systemd) -> None:
    running.nodes["h1"].facts |= {"uid": 0, "user": "root"}
    assert changed(running) == [INSTALL]
    assert systemd.told == ["daemon-reload", f"enable {NAME}"]
    assert {ROOTS} == {f for f in running.nodes["h1"].files if f.endswith(".service")}


def test_one_that_was_disabled_or_edited_is_put_right(running: Sim, systemd: Systemd) -> None:
    up(running.fleet)
    systemd.enabled.clear()
    assert changed(running) == [INSTALL]
    running.nodes["h1"].files[OWN] += b"# a word of mine\n"
    assert changed(running) == [INSTALL]
    assert changed(running) == []


def test_a_unit_of_another_fleet_is_neither_overwritten_nor_removed(running: Sim, systemd: Systemd) -> None:
    running.nodes["h1"].files[OWN] = b"[Unit]\nDescription=llmfleet watch of h1\n"
    with pytest.raises(NodesError) as caught:
        up(running.fleet)
    assert errors_of(caught.value) == {"h1": f"{OWN} is another's"}
    ask(running, at_boot=False)
    assert changed(running) == []
    down(running.fleet)
    assert OWN in running.nodes["h1"].files
    assert systemd.told == []


def test_no_longer_asked_for_it_goes(running: Sim, systemd: Systemd) -> None:
    up(running.fleet)
    ask(running, at_boot=False)
    systemd.told.clear()
    assert changed(running, dry_run=True) == [REMOVE]
    assert changed(running) == [REMOVE]
    assert systemd.told == [f"--user disable --now {NAME}", "--user daemon-reload"]
    assert OWN not in running.nodes["h1"].files
    assert changed(running) == []


def test_it_goes_also_where_systemd_does_not_answer(running: Sim, systemd: Systemd) -> None:
    up(running.fleet)
    node = running.nodes["h1"]
    link = f"/home/ops/.config/systemd/user/default.target.wants/{NAME}"
    node.files[link] = b""
    node.reply("systemctl", stderr="Failed to connect to bus: No medium found\n", exit_code=1)
    assert REMOVE in [(c.node, c.title) for c in down(running.fleet).stopped]
    assert node.files == {}


def test_a_unit_that_cannot_be_removed_is_named(running: Sim, systemd: Systemd) -> None:
    up(running.fleet)
    ask(running, at_boot=False)
    running.nodes["h1"].reply(("rm",), stderr="rm: cannot remove: Permission denied\n", exit_code=1)
    with pytest.raises(NodesError, match=f"h1: {OWN} could not be removed: .*Permission denied"):
        up(running.fleet)
    assert systemd.enabled == set()


def test_it_goes_where_another_user_logs_in_by_now(running: Sim, systemd: Systemd) -> None:
    node = running.nodes["h1"]
    node.facts |= {"uid": 0}
    up(running.fleet)
    node.facts |= {"uid": 1000}
    down(running.fleet)
    assert systemd.told[-2:] == [f"disable --now {NAME}", "daemon-reload"]
    assert node.files == {}


def test_it_goes_with_a_node_that_the_plan_no_longer_has(running: Sim, systemd: Systemd) -> None:
    up(running.fleet)
    running.plan = make_plan({**HOME, "chat-h1-0": ("h5",)}, port=8200)
    assert REMOVE in changed(running)
    assert OWN not in running.nodes["h1"].files


def test_down_removes_it_before_it_stops_anything(running: Sim, systemd: Systemd) -> None:
    up(running.fleet)
    planned = down(running.fleet, dry_run=True)
    assert OWN in running.nodes["h1"].files
    report = down(running.fleet)
    assert report.stopped == planned.stopped
    assert (report.stopped[0].node, report.stopped[0].title) == REMOVE
    assert systemd.told[-2:] == [f"--user disable --now {NAME}", "--user daemon-reload"]
    assert running.nodes["h1"].files == {}
    assert down(running.fleet).stopped == ()


@pytest.mark.parametrize("word", ["daemon-reload", "enable"])
def test_what_systemd_refuses_is_told(running: Sim, systemd: Systemd, word: str) -> None:
    systemd.refuses = word
    with pytest.raises(NodesError) as caught:
        up(running.fleet)
    (message,) = errors_of(caught.value).values()
    assert message.startswith(f"`systemctl --user {word}")
    assert message.endswith("failed: Failed to connect to bus: No medium found")
    systemd.refuses = ""
    assert changed(running) == [INSTALL]


def test_without_systemd_nothing_is_touched(running: Sim) -> None:
    ask(running)
    without = {"systemd": False, "systemctl": False, "linger": False, "python": "/bin/python3", "path": "/bin"}
    running.nodes["h1"].facts |= {"boot": without}
    with pytest.raises(NodesError, match="it has no systemctl"):
        up(running.fleet)
    assert OWN not in running.nodes["h1"].files


def test_who_forgets_a_node_is_told_that_it_may_come_back(running: Sim, systemd: Systemd) -> None:
    up(running.fleet)
    running.plan = make_plan({**HOME, "chat-h1-0": ("h5",)}, port=8200)
    running.nodes["h1"].die()
    forget(running.fleet, "h1")
    assert any("should it come back, it starts its engines by itself" in note for note in running.notes())
    assert systemd.told


def test_resume_knows_what_spans_nodes_by_what_up_writes(running: Sim) -> None:
    specs = {
        (name, path.split("/")[-2]): json.loads(body)
        for name, node in running.nodes.items()
        for path, body in node.files.items()
        if path.endswith("/spec.json")
    }
    spanning = {key for key, spec in specs.items() if resume().spans_nodes(spec)}
    assert spanning == {("head", "ray-head"), ("h3", "ray-worker"), ("h4", "ray-worker"), ("h3", PIPELINE)}


def test_resume_knows_those_without_ray_too(sim: Sim) -> None:
    sim.plan = make_plan(multi_node="mp")
    up(sim.fleet)
    names = ((n, p) for n, node in sim.nodes.items() for p in node.files if p.endswith("/spec.json"))
    spanning = {n for n, p in names if resume().spans_nodes(json.loads(sim.nodes[n].files[p]))}
    assert spanning == {"h3", "h4"}


def resume() -> ModuleType:
    path = Path(__file__).parents[3] / "launch" / "remote" / "resume.py"
    spec = importlib.util.spec_from_file_location("resume", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
