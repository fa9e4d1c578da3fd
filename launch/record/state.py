"""What `up` has done, written before and after each step: .llmfleet/state.json, with a copy on the head node.

Records are only ever added by starting something and removed by seeing it gone, never replaced by "what was seen
this time": `down` must find everything, also after half an `up`, also from another machine.

Schema 2 knows the plan that each process was started by, the plan before this one, and whether this one is all up.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from llmfleet.planner.errors import BrokenStateError, StateError
from llmfleet.planner.inventory.model import Node
from llmfleet.planner.plan import check_process_name

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """`starting` is written before a process is touched, `started` once its supervisor runs."""

    node: str
    name: str
    kind: str
    digest: str
    state: Literal["starting", "started", "stopping"]
    plan: str = ""  # hash of the plan that started it

    def __post_init__(self) -> None:
        check_process_name(self.name)

    @property
    def key(self) -> str:
        return f"{self.node}/{self.name}"


Runtime = Literal["engines", "ray-serve"]  # engines each a process of its own, or replicas of Ray Serve


@dataclass(frozen=True, slots=True)
class State:
    cluster: str
    schema: int = SCHEMA
    serial: int = 0  # counts changes: of two copies, the one with more is the newer
    plan_hash: str = ""  # of the plan that `up` last began with
    complete: bool = False  # whether that plan came to be all up
    previous_plan: str = ""  # the plan that was all up before it
    head: str = ""
    runtime: Runtime = "engines"
    nodes: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # inventory values of every node ever touched
    processes: Mapping[str, ProcessRecord] = field(default_factory=dict)
    draining: tuple[str, ...] = ()  # out of the router, still finishing requests
    drained: tuple[str, ...] = ()  # nothing of ours runs there until undrain

    def node(self, name: str) -> Node:
        try:
            return Node.model_validate(self.nodes[name])
        except ValidationError as error:
            raise StateError(
                f"what the state says of it is no node: {error.errors()[0]['msg']}",
                node=name,
                hint="Use the llmfleet version that wrote it.",
            ) from None

    @property
    def changing(self) -> bool:
        """Whether a change from one plan to another has begun and not come to its end."""
        return bool(self.previous_plan) and not self.complete

    @property
    def out_of_rotation(self) -> frozenset[str]:
        return frozenset(self.draining) | frozenset(self.drained)


@cache
def _adapter() -> TypeAdapter[State]:
    """Made when a state is read or written: `plan` does neither."""
    return TypeAdapter(State)


REBUILD = "`llmfleet state rebuild` reads the state anew from the nodes themselves."


def parse_state(text: str | bytes, where: str) -> State:
    """Older schemas are brought up to this one. Raises BrokenStateError where the text is no state, StateError for a
    schema newer than ours."""
    try:
        body = json.loads(text)
        schema = body.get("schema", SCHEMA) if isinstance(body, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise StateError(
                f"{where} has schema {schema}, written by a newer llmfleet; this one knows schemas up to {SCHEMA}",
                hint="Use the llmfleet version that wrote it, or a newer one.",
            )
        return _adapter().validate_python(_migrated(body))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise BrokenStateError(f"{where} is not a state file: {said}", hint=REBUILD) from None
    except (ValueError, RecursionError) as error:  # no JSON, or no text at all
        raise BrokenStateError(f"{where} is not a state file: {error}", hint=REBUILD) from None


def _migrated(body: Any) -> Any:
    if not isinstance(body, dict) or body.get("schema") != 1:
        return body
    plan, records = body.get("plan_hash", ""), body.get("processes")
    known = {k: {**r, "plan": plan} for k, r in records.items()} if isinstance(records, dict) else {}
    return {**body, "schema": SCHEMA, "complete": bool(plan), "processes": known}


def to_json(state: State) -> dict[str, Any]:
    body: dict[str, Any] = _adapter().dump_python(state, mode="json")
    return body


def dump_state(state: State) -> bytes:
    return json.dumps(to_json(state), indent=1, sort_keys=True).encode() + b"\n"


def united(mine: State, theirs: State) -> State:
    """The newer state with the nodes and processes that only the other knows, since losing one would orphan it.

    A record that the newer one dropped may come back: stopping what is gone already costs one question.
    """
    if theirs.cluster != mine.cluster:
        raise StateError(
            f'the head node keeps the state of cluster "{theirs.cluster}" where that of "{mine.cluster}" should be'
        )
    new, old = (theirs, mine) if theirs.serial > mine.serial else (mine, theirs)
    return replace(new, nodes={**old.nodes, **new.nodes}, processes={**old.processes, **new.processes})


class StateStore:
    """The state file, changed by one thread at a time. Each change is on the disk before the call returns."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.path = folder / "state.json"
        self.broken: BrokenStateError | None = None  # the file is there and cannot be read as one of ours
        self._aside = False  # the file is to be set aside
        self._mutex = threading.Lock()
        self._state = self._read() or State(cluster)
        if self._state.cluster != cluster:
            raise StateError(
                f'{self.path} belongs to cluster "{self._state.cluster}", the inventory says "{cluster}"',
                hint="Keep one folder per cluster, or take the old cluster down first.",
            )

    def _read(self) -> State | None:
        try:
            return parse_state(self.path.read_bytes(), str(self.path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror}", hint=f"ls -l {self.path}") from None
        except BrokenStateError as error:
            self.broken = error
            return None

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @property
    def value(self) -> State:
        """Raises BrokenStateError while the file is no state and no other copy was taken in its place."""
        if self.broken is not None:
            raise self.broken
        return self._state

    def change(self, edit: Callable[[State], State]) -> State:
        with self._mutex:
            changed = edit(self.value)
            if changed != self._state:
                self._keep(replace(changed, serial=self._state.serial + 1))
            return self._state

    def adopt(self, state: State, *, keep: bool) -> None:
        """Goes on from another copy of the state, on the disk too if it is to be kept. A broken file is set aside."""
        with self._mutex:
            if keep:
                if self.broken is not None or self._aside:
                    self.path.replace(self.path.with_name(f"{self.path.name}.broken"))
                self._keep(state)
            self._state, self.broken, self._aside = state, None, False

    def _keep(self, state: State) -> None:
        try:
            write_atomically(self.path, dump_state(state))
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be written: {error.strerror}",
                hint="Make room or mend its permissions, and run the command again: it goes on.",
            ) from error
        self._state = state

    def forget_broken(self) -> None:
        """Goes on as if there were no file. It is set aside when another is written in its place."""
        self._aside, self.broken = self._aside or self.broken is not None, None

    def remember_nodes(
        self, nodes: tuple[Node, ...], *, plan_hash: str, head: str, runtime: Runtime = "engines"
    ) -> None:
        """What `up` begins with: from now on this is the fleet's plan, and the one before it the way back."""
        seen = {n.name: n.model_dump(mode="json") for n in nodes}

        def begun(s: State) -> State:
            s = replace(s, nodes={**s.nodes, **seen}, head=head, runtime=runtime)
            if s.plan_hash == plan_hash:
                return s
            back = s.plan_hash if s.complete or s.previous_plan == plan_hash else s.previous_plan
            return replace(s, plan_hash=plan_hash, previous_plan=back, complete=False)

        self.change(begun)

    def completed(self) -> None:
        self.change(lambda s: replace(s, complete=True))

    def put_process(self, record: ProcessRecord) -> None:
        self.change(lambda s: replace(s, processes={**s.processes, record.key: record}))

    def drop_process(self, key: str) -> None:
        self.change(lambda s: replace(s, processes={k: p for k, p in s.processes.items() if k != key}))


def write_atomically(path: Path, data: bytes) -> None:
    """The file is old or new, never half, also after a power cut; readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
