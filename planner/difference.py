"""What differs between two plans, as data: what-if prints it, `up` acts on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from llmfleet.planner.plan import Instance, Plan, RouterPlan, ServicePlan, Unused

# Fields of an instance that its process does not depend on: the router's, and what is only said of it.
ROUTED: Final = frozenset({"weight", "max_concurrency"})
SAID: Final = frozenset({"budget", "expected", "reason", "capacity_rps"})


@dataclass(frozen=True, slots=True)
class ChangedInstance:
    """The same id in both plans. `fields`: names of what differs, in the order of Instance."""

    before: Instance
    after: Instance
    fields: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.after.id

    @property
    def other_process(self) -> bool:
        """Whether the engine has to start anew; else only the router, or nothing at all, has to know."""
        return bool(set(self.fields) - ROUTED - SAID)

    @property
    def other_routing(self) -> bool:
        return bool(ROUTED.intersection(self.fields))


@dataclass(frozen=True, slots=True)
class ChangedService:
    """`before` None: a new service; `after` None: one that is gone."""

    before: ServicePlan | None
    after: ServicePlan | None
    fields: tuple[str, ...]

    @property
    def name(self) -> str:
        known = self.after or self.before
        return known.name if known else ""


@dataclass(frozen=True, slots=True)
class Difference:
    """From `before` to `after`. Instances, services and warnings in the order of their own plan.

    `router`: fields of the router's place that differ. `idle`: GPUs that nothing uses any more, those of new nodes
    among them; `busy`: GPUs that were idle and are used now, or whose node is gone.
    """

    before: str
    after: str
    added: tuple[Instance, ...]
    removed: tuple[Instance, ...]
    changed: tuple[ChangedInstance, ...]
    services: tuple[ChangedService, ...]
    router: tuple[str, ...]
    idle: tuple[Unused, ...]
    busy: tuple[Unused, ...]
    new_warnings: tuple[str, ...]
    gone_warnings: tuple[str, ...]

    @property
    def restarts(self) -> tuple[ChangedInstance, ...]:
        """Instances that stay in the plan and need another process."""
        return tuple(c for c in self.changed if c.other_process)


def difference(before: Plan, after: Plan) -> Difference:
    """Instances are the same when their ids are: those that `up` keeps, or starts anew in the same place."""
    old, new = {i.id: i for i in before.instances}, {i.id: i for i in after.instances}
    return Difference(
        before=before.hash,
        after=after.hash,
        added=tuple(i for i in after.instances if i.id not in old),
        removed=tuple(i for i in before.instances if i.id not in new),
        changed=tuple(_changed_instances(old, after.instances)),
        services=tuple(_changed_services(before, after)),
        router=_differing(before.router, after.router, RouterPlan),
        idle=_only_in(after.unused, before.unused),
        busy=_only_in(before.unused, after.unused),
        new_warnings=tuple(w for w in after.warnings if w not in before.warnings),
        gone_warnings=tuple(w for w in before.warnings if w not in after.warnings),
    )


def to_json(found: Difference) -> dict[str, Any]:
    """Instances whole where they are new or gone; of changed ones `{field: [before, after]}`."""
    from pydantic import TypeAdapter  # heavy: only where a difference crosses the edge

    body: dict[str, Any] = TypeAdapter(Difference).dump_python(found, mode="json")
    body["changed"] = [
        {"id": c["after"]["id"], "fields": {f: [c["before"][f], c["after"][f]] for f in c["fields"]}}
        for c in body["changed"]
    ]
    body["services"] = [
        {"name": c.name, "before": dumped["before"], "after": dumped["after"], "fields": list(c.fields)}
        for c, dumped in zip(found.services, body["services"], strict=True)
    ]
    return body


def _changed_instances(old: Mapping[str, Instance], now: Iterable[Instance]) -> Iterable[ChangedInstance]:
    for after in now:
        before = old.get(after.id)
        if before is not None and (names := _differing(before, after, Instance)):
            yield ChangedInstance(before, after, names)


def _changed_services(before: Plan, after: Plan) -> Iterable[ChangedService]:
    """Those of the new plan first, then those that are gone."""
    old, new = {s.name: s for s in before.services}, {s.name: s for s in after.services}
    for name in [*new, *(n for n in old if n not in new)]:
        was, now = old.get(name), new.get(name)
        names = _differing(was, now, ServicePlan) if was and now else ()
        if names or was is None or now is None:
            yield ChangedService(was, now, names)


def _differing(before: object, after: object, kind: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if getattr(before, f.name) != getattr(after, f.name))


def _only_in(here: Iterable[Unused], there: Iterable[Unused]) -> tuple[Unused, ...]:
    known = {(u.node, gpu) for u in there for gpu in u.gpus}
    own = (Unused(u.node, tuple(g for g in u.gpus if (u.node, g) not in known), u.reason) for u in here)
    return tuple(u for u in own if u.gpus)
