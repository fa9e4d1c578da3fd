"""Weights from node to node, for real: nodes are folders of this machine that run our scripts and serve each other."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_double import COMMIT, Hub
from sim_fleet import instance, make_inventory, make_plan

from llmfleet.launch.change.steps import Runner
from llmfleet.launch.events import Event, Note
from llmfleet.launch.fleet import Fleet, NodeFolder
from llmfleet.launch.phases.scripts import scripts
from llmfleet.launch.phases.weights import weight_steps
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.results import ChangedStep
from llmfleet.launch.session import Session
from llmfleet.launch.transport.local import LocalTransport
from llmfleet.launch.weights.fanout import Fanout
from llmfleet.planner.errors import InputError, NodesError
from llmfleet.planner.inventory.model import Download

pytestmark = pytest.mark.live
FILES = {"config.json": b'{"a": 1}', "model-1.safetensors": os.urandom(3_000_000), "d/model 2.safetensors": b"b" * 9}


class Site:
    """Nodes h1 … h5; `source` is what the service names."""

    def __init__(self, folder: Path, nodes: int = 5) -> None:
        self.folder, self.names = folder, tuple(f"h{n + 1}" for n in range(nodes))
        self.source = str(folder / "source")
        self.download = Download()
        self.events: list[Event] = []
        self.pushed: list[str] = []  # NODE/FILE that this machine sent
        self.session = self._session()

    def _session(self) -> Session:
        inventory = make_inventory().model_copy(update={"download": self.download})
        fleet = Fleet(inventory, make_plan(), self.folder / ".llmfleet", self.events.append)
        session = Session(fleet, StateStore(fleet.folder, "rag"))
        for name in self.names:
            transport = LocalTransport(name)
            session.transports[name] = transport
            session.folders[name] = NodeFolder(str(self.folder / name))
            session.addresses[name] = "127.0.0.1"
            for script, body in scripts().items():
                transport.put(body, session.folders[name].script(script), mode=0o700)
            transport.put_file = self._counting(name, transport.put_file)  # type: ignore[method-assign]
        return session

    def _counting(self, node: str, put_file: Callable[..., None]) -> Callable[..., None]:
        def counted(source: Path, path: str, **keys: Any) -> None:
            self.pushed.append(f"{node}/{Path(path).name}")
            put_file(source, path, **keys)

        return counted

    def up(self, *, target: str = "chat") -> list[str]:
        """Nodes that were changed."""
        self.session = self._session()
        one = instance("chat-h1-0", self.names, weights_source=self.source, weights_path=f"{{models}}/{target}")
        steps = Runner(self.events.append).phase(1, "weights", lambda: weight_steps(self.session, [one]))
        return sorted(step.node for step in steps if isinstance(step, ChangedStep))

    def copy(self, node: str, name: str, target: str = "chat") -> Path:
        return self.folder / node / "models" / target / name

    def whole(self, target: str = "chat") -> bool:
        return all(self.copy(n, f, target).read_bytes() == body for n in self.names for f, body in FILES.items())

    def warnings(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Note) and e.level == "warning"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("LLMFLEET_PULL_BACKOFF_S", "0.01")
    for variable in ("HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for name, body in FILES.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(body)
    return Site(tmp_path)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub({**FILES, "README.md": b"words", "pytorch_model.bin": b"the same again", "onnx/model.onnx": b"x"})
    yield made
    made.stop()


def test_one_copy_leaves_this_machine_and_the_nodes_pass_it_on(site: Site) -> None:
    assert site.up() == list(site.names)
    assert site.whole()
    assert len({entry.split("/")[0] for entry in site.pushed}) == 1
    assert not site.warnings()
    assert site.up() == []
    assert all(site.copy(n, "config.json").stat().st_mode & 0o777 == 0o600 for n in site.names)
    assert all(site.copy(n, "d").stat().st_mode & 0o777 == 0o700 for n in site.names)


def test_a_node_that_joins_later_gets_it_from_one_that_has_it(site: Site) -> None:
    site.up()
    site.pushed.clear()
    shutil.rmtree(site.copy("h4", ""))
    assert site.up() == ["h4"]
    assert site.whole()
    assert site.pushed == []


def test_a_damaged_copy_on_a_node_is_not_passed_on(site: Site) -> None:
    site.up()
    for name in ("h1", "h2", "h3", "h5"):
        site.copy(name, "model-1.safetensors").write_bytes(os.urandom(3_000_000))
    shutil.rmtree(site.copy("h4", ""))
    site.pushed.clear()
    assert site.up() == ["h4"]
    assert site.copy("h4", "model-1.safetensors").read_bytes() == FILES["model-1.safetensors"]
    assert "h4/model-1.safetensors" in site.pushed, "from its origin, since two peers had it wrong"
    assert any("arrived damaged twice" in warning for warning in site.warnings())


def test_nodes_that_cannot_reach_each_other_are_served_from_here(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = Site._session

    def unreachable(self: Site) -> Session:
        session = addresses(self)
        session.addresses = dict.fromkeys(session.addresses, "192.0.2.1")  # no machine has this one
        return session

    monkeypatch.setattr(Site, "_session", unreachable)
    site.up()
    assert site.whole()
    assert {entry.split("/")[0] for entry in site.pushed} == set(site.names)
    assert any("could not serve weights to others on its address 192.0.2.1" in w for w in site.warnings())


def test_two_sources_of_one_name_do_not_mix(site: Site, tmp_path: Path) -> None:
    keys = {"weights_path": "{models}/chat"}
    both = [
        replace(instance("chat-h1-0", ("h1",), **keys), weights_source=str(tmp_path / folder / "chat"))
        for folder in ("a", "b")
    ]
    with pytest.raises(InputError, match=r"the sources \S+/a/chat and \S+/b/chat would both become"):
        weight_steps(site.session, both)


@pytest.mark.parametrize("kind", ["hf", "modelscope"])
@pytest.mark.parametrize("by", ["node", "controller"])
def test_a_hub_is_asked_once(site: Site, hub: Hub, kind: str, by: Any) -> None:
    site.source, site.download = f"{kind}:org/name", Download(by=by, endpoint=hub.url)
    assert site.up(target="name") == list(site.names)
    assert site.whole("name")
    assert sum("model-1.safetensors" in path for path in hub.asked) == 1
    assert not any(word in path for path in hub.asked for word in ("README", "onnx", ".bin"))
    hub.stop()  # from now on nobody needs it
    assert site.up(target="name") == []
    shutil.rmtree(site.copy("h2", "", "name"))
    assert site.up(target="name") == ["h2"]
    assert site.whole("name")


def test_the_commit_is_kept_to_and_nodes_know_it_too(site: Site, hub: Hub, tmp_path: Path) -> None:
    site.source, site.download = "hf:org/name@main", Download(endpoint=hub.url)
    site.up(target="name@main")
    manifest = (tmp_path / "h3" / "models" / "name@main.sha256.json").read_text()
    assert COMMIT in manifest
    (tmp_path / ".llmfleet" / "weights.json").unlink()  # another machine takes over
    assert site.up(target="name@main") == []


def test_one_file_of_a_repository(site: Site, hub: Hub) -> None:
    site.source, site.download = "hf:org/name:model-1.safetensors", Download(endpoint=hub.url)
    site.up(target="name/model-1.safetensors")
    copies = [site.copy(n, "", "name/model-1.safetensors").read_bytes() for n in site.names]
    assert copies == [FILES["model-1.safetensors"]] * len(site.names)
    assert site.up(target="name/model-1.safetensors") == []


def test_connections_that_are_reset_in_the_middle_of_a_file(site: Site, hub: Hub) -> None:
    hub.cut_after, hub.cuts = 400_000, 6
    site.source, site.download = "hf:org/name", Download(endpoint=hub.url)
    site.up(target="name")
    assert site.whole("name")
    assert sum("model-1.safetensors" in path for path in hub.asked) == 7, "each goes on where the last one ended"


def test_a_hub_that_sends_damaged_bytes_is_blamed(site: Site, hub: Hub) -> None:
    hub.damage = {"model-1.safetensors"}
    site.source, site.download = "hf:org/name", Download(endpoint=hub.url)
    with pytest.raises(NodesError, match=r"weights are damaged: model-1\.safetensors arrived damaged twice") as caught:
        site.up(target="name")
    assert not site.copy("h1", "model-1.safetensors", "name").exists()
    assert "its memory or its network" in str(caught.value)
    hub.damage = set()
    assert site.up(target="name") == list(site.names)


def test_a_token_comes_from_its_variable(site: Site, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_planted"
    site.source, site.download = "hf:org/name", Download(endpoint=hub.url)
    with pytest.raises(NodesError, match="wants a token"):
        site.up(target="name")
    site.download = Download(endpoint=hub.url, token_env="FLEET_HF_TOKEN")
    with pytest.raises(NodesError, match="FLEET_HF_TOKEN, which should hold the hub's token, is not set"):
        site.up(target="name")
    monkeypatch.setenv("FLEET_HF_TOKEN", "hf_planted")
    assert site.up(target="name") == list(site.names)


def test_a_hub_that_is_away_is_named_with_what_to_do(site: Site) -> None:
    site.source, site.download = "hf:org/name", Download(endpoint="http://127.0.0.1:9")
    with pytest.raises(NodesError, match=r"org/name cannot be listed: http://127\.0\.0\.1:9: .*refused") as caught:
        site.up(target="name")
    assert "by: controller" in str(caught.value)


def test_no_server_is_left_running(site: Site) -> None:
    site.up()
    mine = str(site.folder).encode()
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if mine in _read(p) and b"serve_files" in _read(p)]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("nodes", [1, 2, 7, 40])
def test_the_tree_uses_the_origin_once_and_no_node_too_much(nodes: int) -> None:
    fanout, origins, serving, most, mutex = Fanout(), [], dict[str, int](), [0], threading.Lock()

    def work(name: str) -> None:
        peer = fanout.claim(name)
        with mutex:
            if peer is None:
                origins.append(name)
            else:
                serving[peer] = serving.get(peer, 0) + 1
                most[0] = max(most[0], serving[peer])
        with mutex:
            if peer is not None:
                serving[peer] -= 1
        fanout.release(peer, finished=name)

    threads = [threading.Thread(target=work, args=(f"n{n}",)) for n in range(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(origins) == 1
    assert most[0] <= 2


def test_when_the_first_fails_the_next_one_goes_to_the_origin() -> None:
    fanout = Fanout()
    assert fanout.claim("a") is None
    fanout.release(None)
    assert fanout.claim("b") is None
    fanout.release(None, finished="b")
    assert fanout.claim("c") == "b"
    assert fanout.claim("d", {"b"}) is None
