"""Pages that the tests look at."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from tests.unit.planning.fleets import EXAMPLE, inventory, models

from llmfleet.cli.render.html import plan_page
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.curves import Curve, curves
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.make import decided, written_down
from llmfleet.planner.plan import Plan

HOSTILE = "</script><script>window.broken=1</script><img src=x onerror='window.broken=2'>\"'{{7*7}}&amp;"


def page_of(text: str) -> str:
    fleet = inventory(text)
    decision = decided(fleet, models(fleet))
    plan = written_down(decision)
    return plan_page(plan, fleet, curves(decision, plan))


@lru_cache(maxsize=1)
def example_page() -> str:
    return page_of(EXAMPLE)


@lru_cache(maxsize=1)
def hostile_page() -> str:
    """The example with names and sentences that no inventory lets through: an older plan.json, a catalogue's entry."""
    fleet = inventory(EXAMPLE)
    decision = decided(fleet, models(fleet))
    plan = written_down(decision)
    return plan_page(_hostile(plan), _hostile_inventory(fleet), _hostile_curves(decision, plan))


def _bad(name: str) -> str:
    return f"{name}{HOSTILE}"


def _bad_id(name: str) -> str:
    """A plan takes no instance with a slash in its name."""
    return _bad(name).replace("/", "")


def _hostile(plan: Plan) -> Plan:
    return replace(
        plan,
        cluster=_bad(plan.cluster),
        head=_bad(plan.head),
        hash=HOSTILE,
        router=replace(plan.router, node=HOSTILE),
        instances=tuple(
            replace(
                i,
                id=_bad_id(i.id),
                service=_bad(i.service),
                model=_bad(i.model),
                engine_version=HOSTILE,
                image=HOSTILE,
                quantization=HOSTILE,
                nodes=tuple(_bad(n) for n in i.nodes),
                gpus={_bad(n): gpus for n, gpus in i.gpus.items()},
                reason=_bad(i.reason),
            )
            for i in plan.instances
        ),
        services=tuple(
            replace(
                s,
                name=_bad(s.name),
                model=_bad(s.model),
                fallback=s.fallback and _bad(s.fallback),
                pools=tuple(
                    replace(p, name=_bad(p.name), instances=tuple(_bad_id(i) for i in p.instances)) for p in s.pools
                ),
            )
            for s in plan.services
        ),
        rejected=tuple(replace(r, service=_bad(r.service), node_class=HOSTILE, reason=HOSTILE) for r in plan.rejected),
        warnings=(HOSTILE,),
    )


def _hostile_inventory(fleet: Inventory) -> Inventory:
    nodes = tuple(n.model_copy(update={"name": _bad(n.name)}) for n in fleet.nodes)
    services = tuple(s.model_copy(update={"name": _bad(s.name)}) for s in fleet.services)
    values = {name: getattr(fleet, name) for name in Inventory.model_fields}
    return Inventory.model_construct(**(values | {"nodes": nodes, "services": services}))


def _hostile_curves(decision: Decision, plan: Plan) -> list[Curve]:
    return [
        replace(c, service=_bad(c.service), instances=tuple(_bad_id(i) for i in c.instances))
        for c in curves(decision, plan)
    ]
