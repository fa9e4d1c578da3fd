"""Weights, really copied: into folders of this machine that stand for a node's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sim_fleet import instance, make_inventory, make_plan

from llmfleet.launch.change.steps import Runner
from llmfleet.launch.events import Event, Note
from llmfleet.launch.fleet import Fleet, NodeFolder
from llmfleet.launch.phases import weights
from llmfleet.launch.record.state import StateStore
from llmfleet.launch.session import Session
from llmfleet.launch.transport.base import Completed
from llmfleet.launch.transport.local import LocalTransport
from llmfleet.planner.errors import CommandError, InputError, NodesError
from llmfleet.planner.plan import Instance

FILES = {"config.json": b"{}", "model-1.safetensors": b"a" * 3000, "sub/model 2.safetensors": b"b" * 2000}


class Copying:
    """One node, h1, whose folder is `node`."""

    def __init__(self, folder: Path) -> None:
        self.source, self.node = folder / "source", folder / "node"
        self.events: list[Event] = []
        fleet = Fleet(make_inventory(), make_plan(), folder / ".llmfleet", self.events.append)
        self.session = Session(fleet, StateStore(fleet.folder, "rag"))
        self.transport = LocalTransport("h1")
        self.session.transports["h1"] = self.transport
        self.session.folders["h1"] = NodeFolder(str(self.node))
        self.sent: list[str] = []
        self._count_copies(self.transport.put_file)

    def _count_copies(self, put_file: Callable[..., None]) -> None:
        def counted(source: Path, path: str, **keys: object) -> None:
            self.sent.append(str(Path(path).relative_to(self.node / "models")))
            put_file(source, path, **keys)

        self.transport.put_file = counted  # type: ignore[method-assign]

    @property
    def instances(self) -> list[Instance]:
        """Two that share their weights."""
        keys = {"weights_source": str(self.source), "weights_path": "{models}/chat"}
        return [instance(f"chat-h1-{n}", ("h1",), **keys) for n in range(2)]

    def run(self) -> list[str]:
        """Titles of what was done; `sent` holds the files that were copied."""
        self.sent.clear()
        runner = Runner(self.events.append)
        return [c.title for c in runner.phase(1, "weights", lambda: weights.weight_steps(self.session, self.instances))]

    def copy(self, name: str) -> Path:
        return self.node / "models/chat" / name


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    made = Copying(tmp_path)
    for name, body in FILES.items():
        (made.source / name).parent.mkdir(parents=True, exist_ok=True)
        (made.source / name).write_bytes(body)
    return made


def test_every_file_arrives_and_a_second_time_none_is_sent(copying: Copying) -> None:
    assert copying.run() == ["copy weights chat"]
    assert {name: copying.copy(name).read_bytes() for name in FILES} == FILES
    assert sorted(copying.sent) == sorted(f"chat/{name}" for name in FILES)
    assert (copying.run(), copying.sent) == ([], [])


def test_a_single_file_becomes_the_path_itself(copying: Copying) -> None:
    copying.source = copying.source / "config.json"
    copying.run()
    assert (copying.node / "models/chat").read_bytes() == b"{}"
    assert copying.run() == []


def test_only_what_is_missing_is_sent(copying: Copying) -> None:
    copying.run()
    copying.copy("model-1.safetensors").unlink()
    assert copying.run() == ["copy weights chat"]
    assert copying.sent == ["chat/model-1.safetensors"]


def test_a_copy_that_was_cut_short_is_gone_on_with(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    put_file = copying.transport.put_file

    def cut(source: Path, path: str, **keys: object) -> None:
        if source.name == "model-1.safetensors":
            raise CommandError("disk full")
        put_file(source, path, **keys)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(copying.transport, "put_file", cut)
        with pytest.raises(NodesError, match="h1: disk full"):
            copying.run()
    copying.run()
    assert "chat/config.json" not in copying.sent
    assert {name: copying.copy(name).read_bytes() for name in FILES} == FILES


def test_changed_weights_of_the_same_size_are_sent(copying: Copying) -> None:
    copying.run()
    (copying.source / "model-1.safetensors").write_bytes(b"c" * 3000)
    assert copying.run() == ["copy weights chat"]
    assert copying.sent == ["chat/model-1.safetensors"]
    assert copying.copy("model-1.safetensors").read_bytes() == b"c" * 3000


def test_a_copy_that_arrives_damaged_is_named_and_sent_again(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    put_file = copying.transport.put_file

    def damaging(source: Path, path: str, **keys: object) -> None:
        put_file(source, path, **keys)  # type: ignore[arg-type]
        if source.name == "model-1.safetensors":
            Path(path).write_bytes(b"x" * 3000)

    with monkeypatch.context() as patch:
        patch.setattr(copying.transport, "put_file", damaging)
        with pytest.raises(NodesError, match=r"the copy of \S+/chat/model-1\.safetensors differs from its source"):
            copying.run()
    assert copying.run() == ["copy weights chat"]
    assert copying.sent == ["chat/model-1.safetensors"]


def test_a_truncated_copy_is_noticed(copying: Copying) -> None:
    copying.run()
    copying.copy("config.json").write_bytes(b"")
    assert copying.run() == ["copy weights chat"]


def test_a_chatty_shell_is_not_taken_for_sums(copying: Copying) -> None:
    run = copying.transport.run

    def chatty(argv: tuple[str, ...], **keys: object) -> object:
        done = run(argv, **keys)  # type: ignore[arg-type]
        return replace(done, stdout=f"Welcome to node one!\n{done.stdout}")

    copying.transport.run = chatty  # type: ignore[method-assign, assignment]
    assert copying.run() == ["copy weights chat"]
    assert copying.run() == []


def test_a_node_that_cannot_sum_is_told(copying: Copying) -> None:
    copying.transport.run = lambda argv, **_: Completed(argv, 127, "", "not found")  # type: ignore[method-assign]
    with pytest.raises(NodesError, match="h1: the weights there could not be checked: not found"):
        copying.run()


@pytest.mark.parametrize(("make", "words"), [(False, "do not exist on this machine"), (True, "is empty")])
def test_a_source_that_is_missing_or_empty(copying: Copying, tmp_path: Path, make: bool, words: str) -> None:
    copying.source = tmp_path / "nothing"
    if make:
        copying.source.mkdir()
    with pytest.raises(InputError, match=words) as caught:
        copying.run()
    assert "source:" in caught.value.hint


def test_a_source_that_cannot_be_read(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "model-1.safetensors")

    monkeypatch.setattr(weights, "source_sums", denied)
    with pytest.raises(InputError, match=r"model-1\.safetensors cannot be read: Permission denied"):
        copying.run()


def test_a_relative_source_lies_beside_the_inventory(copying: Copying) -> None:
    assert weights.local_source(copying.session, "source") == copying.source


def test_progress_is_told(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "NOTE_EVERY_S", 0)
    (copying.source / "model-1.safetensors").write_bytes(b"a" * (3 << 20))
    copying.run()
    told = [e for e in copying.events if isinstance(e, Note)]
    assert [e.text for e in told][-1] == "3 of 3 MiB from this machine"
    assert {e.node for e in told} == {"h1"}
