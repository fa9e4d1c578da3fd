"""Plans that `up` has put in place, each with the inventory that it was made from: .llmfleet/plans/HASH.json.

They are the way back (`llmfleet up --plan HASH`), and they say what an engine is that an older plan has started. The
head node has the newest too, for a run from another machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from llmfleet.launch.fleet import Fleet
from llmfleet.launch.record.state import write_atomically
from llmfleet.launch.session import Session
from llmfleet.planner.errors import FleetError, InputError
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.plan import Instance, Plan, sealed

KEPT = 20


@dataclass(frozen=True)
class Applied:
    plan: Plan
    inventory: Inventory

    @cached_property
    def instances(self) -> dict[str, Instance]:
        return {i.id: i for i in self.plan.instances}


_ADAPTER: TypeAdapter[Applied] = TypeAdapter(Applied)


def plans_folder(folder: Path) -> Path:
    return folder / "plans"


def dump_applied(plan: Plan, inventory: Inventory) -> bytes:
    body = _ADAPTER.dump_python(Applied(plan, inventory), mode="json")
    return json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def parse_applied(text: bytes, where: str) -> Applied:
    """Raises InputError where the text is no such file, or was edited."""
    try:
        found = _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where} is no plan that was put in place: {place}: {first['msg']}") from None
    if sealed(found.plan).hash != found.plan.hash:
        raise InputError(f"{where} was edited by hand: its hash no longer fits its content")
    return found


def find_applied(folder: Path, wanted: str) -> Applied:
    """By a file's path, or by the beginning of a hash. Raises InputError, which lists the hashes that are kept."""
    path = Path(wanted)
    if not path.is_file():
        known = kept(folder)
        matching = [p for p in known if p.stem.startswith(wanted)] if wanted else []
        if len(matching) != 1:
            what = "several plans" if matching else "no plan"
            names = ", ".join(p.stem[:6] for p in known) or "none yet"
            raise InputError(f'"{wanted}" names {what} in {plans_folder(folder)}', hint=f"Kept, newest first: {names}.")
        path = matching[0]
    try:
        return parse_applied(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def kept(folder: Path) -> list[Path]:
    """Newest first."""
    found = plans_folder(folder).glob("*.json") if plans_folder(folder).is_dir() else ()
    return sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)


def remember(session: Session) -> None:
    """Writes the plan of this run down, here and on the head, before anything of it is started."""
    fleet, head = session.fleet, session.fleet.plan.head
    body = dump_applied(fleet.plan, fleet.inventory)
    path = plans_folder(fleet.folder) / f"{fleet.plan.hash}.json"
    if not path.exists() or path.read_bytes() != body:
        write_atomically(path, body)
    path.touch()
    needed = {r.plan for r in session.store.value.processes.values()} | {session.store.value.previous_plan}
    for old in kept(fleet.folder)[KEPT:]:
        if old.stem not in needed:
            old.unlink()
    if head in session.transports:
        there = f"{session.folders[head].plans}/{fleet.plan.hash}.json"
        if session.transports[head].get(there) != body:
            session.transports[head].put(body, there)


class Origins:
    """What each recorded engine is, by the plan that started it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, Applied | None] = {}

    def plan(self, plan_hash: str) -> Plan | None:
        """None where nobody knows it any more."""
        applied = self._applied(plan_hash) if plan_hash else None
        return applied.plan if applied is not None else None

    def instance(self, node: str, name: str) -> Instance | None:
        """None where nobody knows the plan any more, or it is not recorded."""
        record = self._session.store.value.processes.get(f"{node}/{name}")
        applied = self._applied(record.plan) if record is not None and record.plan else None
        found = applied.instances.get(name) if applied is not None else None
        return found if found is not None and found.nodes[0] == node else None

    def _applied(self, plan_hash: str) -> Applied | None:
        if plan_hash not in self._known:
            self._known[plan_hash] = self._read(plan_hash)
        return self._known[plan_hash]

    def _read(self, plan_hash: str) -> Applied | None:
        path = plans_folder(self._session.fleet.folder) / f"{plan_hash}.json"
        try:
            return parse_applied(path.read_bytes(), str(path))
        except (OSError, InputError):
            return self._from_head(plan_hash)

    def _from_head(self, plan_hash: str) -> Applied | None:
        head = self._session.fleet.plan.head
        if head not in self._session.transports:
            return None
        try:
            path = f"{self._session.folders[head].plans}/{plan_hash}.json"
            text = self._session.transports[head].get(path)
            found = None if text is None else parse_applied(text, path)
        except FleetError:
            return None
        if text is not None and self._session.lock is not None:  # the way back, if another machine put it in place
            write_atomically(plans_folder(self._session.fleet.folder) / f"{plan_hash}.json", text)
        return found


def fleet_of(fleet: Fleet, applied: Applied) -> Fleet:
    """The fleet as it was when that plan was put in place."""
    return Fleet(applied.inventory, applied.plan, fleet.folder, fleet.observe)
