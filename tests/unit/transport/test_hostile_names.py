"""Names that would like to be commands, in every field of an inventory that takes free text: they stay names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfleet.launch.commands.engines import engine_process
from llmfleet.launch.fleet import NodeFolder, node_folder
from llmfleet.launch.nodes.process import Process
from llmfleet.launch.phases.scripts import scripts
from llmfleet.launch.record import audit
from llmfleet.launch.transport.ssh import SshTransport
from llmfleet.planner.errors import FleetError, InputError, InventoryError
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.make import make_plan

pytestmark = pytest.mark.live
CANARY = "canary"
HOSTILE = (
    "; touch {c}", "$(touch {c})", "`touch {c}`", "| touch {c}", "&& touch {c} &", "> {c}", "' ; touch {c} ; '",
    '" ; touch {c} ; "', "\\'; touch {c}; \\'", "-n; touch {c}", "../../{c}", "a\ntouch {c}\n",
    "${{IFS}}touch${{IFS}}{c}",
    "日本語 · 🦙 $(touch {c})", "%s$(touch {c})%n", "~root/$(touch {c})", "{{models}}$(touch {c})", "*?[a]; touch {c}",
    "/srv/x; touch {c}", "/srv/$(touch {c})", "~/`touch {c}`", "~/' ; touch {c} ; '",  # folders have to begin like this
)  # fmt: skip
PLACES: tuple[tuple[str | int, ...], ...] = (
    ("cluster",), ("models_dir",), ("nodes", 0, "name"), ("nodes", 0, "host"), ("nodes", 0, "address"),
    ("nodes", 0, "gpus"), ("access", "user"), ("access", "key"), ("access", "jump"), ("access", "known_hosts"),
    ("access", "password_env"), ("runtime", "dir"), ("runtime", "python"), ("runtime", "llama_server"),
    ("runtime", "image"), ("runtime", "interface"), ("runtime", "env", "A"), ("runtime", "versions", "vllm"),
    ("services", 0, "name"), ("services", 0, "model"), ("services", 0, "path"), ("services", 0, "source"),
    ("services", 0, "config"), ("router", "bind"), ("router", "keys_file"), ("download", "endpoint"),
    ("download", "token_env"),
)  # fmt: skip


def inventory(place: tuple[str | int, ...], text: str) -> Inventory:
    """Raises InventoryError where the file refuses the text."""
    whole: dict[str, Any] = {
        "cluster": "c", "models_dir": "/models", "access": {}, "runtime": {"env": {}, "versions": {}},
        "nodes": [{"name": "n1", "host": "10.0.0.1", "gpus": "1 x CPU-4G"}], "router": {}, "download": {},
        "services": [{"name": "s", "model": "Qwen/Qwen2.5-0.5B-Instruct", "placement": [{"nodes": ["n1"]}]}],
    }  # fmt: skip
    inside: Any = whole
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = text
    return parse(json.dumps(whole))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_field_is_refused_or_arrives_as_it_is(
    place: tuple[str | int, ...], connect: Callable[..., SshTransport], tmp_path: Path
) -> None:
    node, canary = connect(), tmp_path / CANARY
    words = [text.format(c=canary) for text in HOSTILE]
    accepted = 0
    for text in words:
        try:
            found = inventory(place, text)
        except InventoryError:
            continue
        accepted += 1
        for argv in commands(found):
            arrived = node.run(("printf", "%s\\0", *argv)).stdout.split("\0")[:-1]
            assert arrived == list(argv)
    assert not canary.exists()
    assert accepted or place not in ((("runtime", "dir")), ("runtime", "env", "A")), "these take free text"


def commands(found: Inventory) -> list[tuple[str, ...]]:
    """What the plan made of it would run, with environments as words too; nothing where there is no such plan."""
    try:
        plan = make_plan(found, _models(found))
    except FleetError:
        return []
    made: list[tuple[str, ...]] = []
    for instance in plan.instances:
        node = found.node(instance.nodes[0])
        for kind in ("process", "docker", "podman"):
            there = node.model_copy(update={"runtime": node.runtime.model_copy(update={"kind": kind})})
            folder = node_folder(there, found.cluster, "/home/ops")
            try:
                process = engine_process(
                    instance, there, folder=folder, addresses={node.name: "10.0.0.1"}, ray_address="",
                    names=(instance.service, instance.model),
                )  # fmt: skip
            except InputError:
                continue
            env = tuple(f"{key}={value}" for key, value in process.env.items())
            made += [process.argv, env, process.cleanup or ("true",)]
    return made


def _models(found: Inventory) -> dict[str, Any]:
    from llmfleet.launch.models.files import resolve_model

    return {s.name: resolve_model("Qwen/Qwen2.5-0.5B-Instruct") for s in found.services}


TEXT = st.text(
    st.sampled_from(list("ab ;&|<>$`'\"\\(){}[]*?!#~=%^-.,/é🦙"))
    | st.characters(codec="utf-8", exclude_characters="\0\r\n"),
    min_size=1, max_size=30,
)  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=TEXT.filter(lambda t: t.strip("./") and "/" not in t and len(t.encode()) < 200))
def test_what_a_node_is_given_to_run_stays_in_its_folder(
    name: str, connect: Callable[..., SshTransport], tmp_path: Path
) -> None:
    """A process is started, seen, stopped and swept by the real scripts, in a folder and with words named like that."""
    stays_inside(connect(), tmp_path, name)


@pytest.mark.parametrize("text", [h for h in HOSTILE if "\n" not in h and "/" not in h.replace("{c}", "")])
def test_a_folder_named_like_a_command_is_a_folder(
    text: str, connect: Callable[..., SshTransport], tmp_path: Path
) -> None:
    stays_inside(connect(), tmp_path, text.format(c=CANARY))


def stays_inside(node: SshTransport, tmp_path: Path, name: str) -> None:
    base = tmp_path / "nodes"
    base.mkdir(exist_ok=True)
    before = entries(tmp_path, base)
    folder = NodeFolder(f"{base}/{name}/c/n1")
    for script, body in scripts().items():
        node.put(body, folder.script(script), mode=0o700)
    argv = ("sh", "-c", 'printf "%s" "$1" > said; exec sleep 60', "sh", name)
    process = Process("p", "n1", "router", argv, {"A": name})
    node.put(json.dumps(process.spec()).encode(), f"{folder.process('p')}/spec.json")
    supervise = (sys.executable, folder.script("supervise.py"))
    started = node.run((*supervise, "start", folder.process("p")))
    try:
        assert json.loads(started.stdout)["state"] in ("starting", "healthy"), started.stderr
        assert [s["name"] for s in json.loads(node.run((*supervise, "status", folder.process("p"))).stdout)] == ["p"]
        assert node.get(f"{folder.process('p')}/said") in (name.encode(), None)
        node.run(audit.append_command(f"{folder.root}/audit.log", name))
        assert node.get(f"{folder.root}/audit.log") == name.encode() + b"\n"
    finally:
        node.run((*supervise, "sweep", folder.root), timeout=60)
    assert {p.name for p in base.iterdir()} >= {name}
    assert entries(tmp_path, base) == before
    assert not list(tmp_path.rglob(f"**/{CANARY}"))


def entries(folder: Path, but: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if but not in (p, *p.parents)}
