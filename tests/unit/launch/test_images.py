"""Images from a tar: brought to the nodes that lack them, loaded, and not kept there. docker is a double here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sim_fleet import instance
from test_fanout import Site

from llmfleet.launch.change.steps import Runner
from llmfleet.launch.nodes.facts import NodeFacts
from llmfleet.launch.phases.images import image_steps
from llmfleet.planner.errors import NodesError
from llmfleet.planner.inventory.model import Runtime

pytestmark = pytest.mark.live
DOCKER = """#!/bin/sh
# a double: what is loaded is a line of a file; a tar holds the name of its image
case "$1" in
  image) grep -qx "$5" "$STORE" ;;
  load) [ -s "$3" ] || { echo "no such archive" >&2; exit 1; }; cat "$3" >> "$STORE" ;;
esac
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("STORE", str(tmp_path / "store"))
    (tmp_path / "store").touch()
    (tmp_path / "vllm.tar").write_text("vllm:1\n")
    return Site(tmp_path, nodes=3)


def load(site: Site, *, there: bool = False, image: str = "vllm:1") -> list[str]:
    session = site._session()
    runtime = Runtime(kind="docker", image=image, image_tar=str(site.folder / "vllm.tar"))
    nodes = tuple(n.model_copy(update={"runtime": runtime}) for n in session.fleet.inventory.nodes)
    session.fleet = replace(session.fleet, inventory=session.fleet.inventory.model_copy(update={"nodes": nodes}))
    facts = cast(NodeFacts, SimpleNamespace(images={image: there}))
    session.facts = dict.fromkeys(site.names, facts)
    instances = [instance(f"chat-{name}-0", (name,)) for name in site.names]
    copies, loads = image_steps(session, instances)
    run = Runner(site.events.append)
    done: list[Any] = [*run.phase(1, "images", lambda: copies), *run.phase(2, "loading", lambda: loads)]
    return [f"{step.node} {step.title}" for step in done]


def test_the_image_is_loaded_where_it_lacks_and_the_tar_is_gone(site: Site) -> None:
    done = load(site)
    assert [d for d in done if "copy image" in d] == [f"{name} copy image vllm.tar" for name in site.names]
    loaded = [d.split()[0] for d in done if "load image vllm:1" in d]
    assert loaded, "all nodes share one store in this test, so one may have loaded it for all"
    assert not any(list((site.folder / name / "images").iterdir()) for name in loaded)
    assert len({entry.split("/")[0] for entry in site.pushed}) <= 1, "one copy leaves this machine"
    assert load(site, there=True) == []


def test_a_tar_of_something_else_is_told(site: Site) -> None:
    with pytest.raises(NodesError, match=r"`image_tar` does not hold vllm:2"):
        load(site, image="vllm:2")


def test_a_tar_that_cannot_be_loaded_is_told(site: Site) -> None:
    (site.folder / "bin" / "docker").write_text("#!/bin/sh\n[ $1 = load ] && echo 'invalid tar header' >&2\nexit 1\n")
    with pytest.raises(NodesError, match=r"could not be loaded from \S+vllm\.tar: invalid tar header"):
        load(site)
