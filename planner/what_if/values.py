"""Terms about services and the policy: `chat.rate=2x`, `chat.slo.ttft=1s`, `policy.redundancy=1`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from llmfleet.planner.errors import InputError
from llmfleet.planner.inventory.draft import Draft
from llmfleet.planner.inventory.findings import nearest, path
from llmfleet.planner.inventory.model import Inventory, Policy, Runtime, Service
from llmfleet.planner.inventory.shapes import shown
from llmfleet.planner.inventory.wording import finding

Part = TypeVar("Part", bound=BaseModel)

SHORT: Final[Mapping[str, tuple[str, ...]]] = {
    **{key: ("traffic", key) for key in ("rate", "peak", "input", "output", "shared_prefix")},
    **{key: ("slo", key) for key in ("ttft", "tpot", "percentile")},
}
LENGTHS: Final = (("traffic", "input"), ("traffic", "output"))
OF_THE_OLD_MODEL: Final = ("config", "source", "path")
FACTOR = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) *[x×]")


def with_value(target: str, value: str, inventory: Inventory) -> Inventory:
    """Raises InputError for a target that is not there and a value that cannot be."""
    name, keys = _target(target, inventory)
    if name == "policy":
        return inventory.model_copy(update={"policy": _changed(inventory.policy, Policy, keys, value, name)})
    service = inventory.service(name)
    first, *rest = keys
    changed = _changed(service, Service, [*SHORT.get(first, (first,)), *rest], value, name)
    if changed.name != service.name:
        raise InputError("a service keeps its name: it is what clients call.")
    if changed.traffic and changed.traffic.trace != (service.traffic and service.traffic.trace):
        raise InputError("traces are read with the inventory. Name it in a copy of that, and plan the copy.")
    if changed.model != service.model:
        changed = changed.model_copy(update=dict.fromkeys(OF_THE_OLD_MODEL))
    services = tuple(changed if s is service else s for s in inventory.services)
    return inventory.model_copy(update={"services": services})


def without_service(name: str, inventory: Inventory) -> Inventory:
    gone = inventory.service(name)
    left = (s for s in inventory.services if s is not gone)
    services = tuple(s.model_copy(update={"fallback": None}) if s.fallback == name else s for s in left)
    if not services:
        raise InputError("a fleet without services has no plan.")
    return inventory.model_copy(update={"services": services})


def draft_of_services(inventory: Inventory) -> Draft:
    """What the checks across services look at; nodes are not theirs here."""
    return Draft(
        nodes={},
        entries=(),
        services=dict(enumerate(inventory.services)),
        runtime=Runtime(),
        router=inventory.router,
        node_names=None,
        service_names={s.name: i for i, s in enumerate(inventory.services)},
        known_gpu=None,
        invalid=frozenset(),
    )


def _target(target: str, inventory: Inventory) -> tuple[str, list[str]]:
    """The name may have dots of its own: the longest that there is."""
    known = ["policy", *(s.name for s in inventory.services)]
    named = [name for name in known if target.startswith(f"{name}.")]
    if not named:
        word = target.partition(".")[0]
        if target in known:
            raise InputError(f"which key of {target}? Write {target}.KEY=VALUE.")
        raise InputError(
            f'{shown(word)} is neither a service nor "policy".',
            hint=nearest(word, known) or f"Services: {', '.join(known[1:11])}.",
        )
    name = max(named, key=len)
    keys = target[len(name) + 1 :].split(".")
    fields: Sequence[str] = [*Policy.model_fields] if name == "policy" else [*SHORT, *Service.model_fields]
    if keys[0] not in fields:
        raise InputError(
            f"{shown(keys[0])} is no key of {name}.", hint=nearest(keys[0], fields) or f"Keys: {', '.join(fields)}."
        )
    return name, keys


def _changed(part: Part, kind: type[Part], keys: Sequence[str], value: str, name: str) -> Part:
    """`part` with the value at the place of the keys, checked as the inventory's own are."""
    body = part.model_dump()
    above = body
    for key in keys[:-1]:
        inner = above.get(key)
        above[key] = inner = dict(inner) if isinstance(inner, dict) else {}
        above = inner
    old = above.get(keys[-1])
    above[keys[-1]] = _value(value, old, f"{name}.{'.'.join(keys)}", is_length=tuple(keys) in LENGTHS)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        found = [finding(e, kind) for e in error.errors(include_url=False)]
        said = (f"{name}.{path(f.loc)}: {f.message} {f.hint}".rstrip() for f in found)
        raise InputError(" ".join(said)) from None


def _value(text: str, old: Any, where: str, *, is_length: bool) -> Any:
    factor = FACTOR.fullmatch(text)
    if factor:
        return _multiplied(old, float(factor[1]), where)
    try:
        new = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{shown(text)} is no value.") from None
    if is_length and not isinstance(new, dict):
        return _rescaled(old, new)
    return new


def _multiplied(old: Any, factor: float, where: str) -> Any:
    """Tokens stay whole. A distribution of lengths grows as a whole."""
    if isinstance(old, dict) and "mean" in old:
        return {key: _longer(value, factor) for key, value in old.items()}
    if isinstance(old, bool) or not isinstance(old, int | float):
        is_set = "is not set" if old is None else f"is {shown(old)}"
        raise InputError(f"{where} {is_set}: there is nothing to multiply. Give a value of its own.")
    return round(old * factor) if isinstance(old, int) else old * factor


def _longer(tokens: Any, factor: float) -> Any:
    """One length, or several of them."""
    if tokens is None:
        return None
    return round(tokens * factor) if isinstance(tokens, int) else [round(each * factor) for each in tokens]


def _rescaled(old: Any, mean: Any) -> dict[str, Any]:
    """Another mean, the spread as it was."""
    from pydantic import TypeAdapter

    from llmfleet.planner.inventory.units import Tokens

    if not isinstance(old, dict):
        return {"mean": mean}
    try:
        wanted = TypeAdapter(Tokens).validate_python(mean)
    except ValidationError:
        return {**old, "mean": mean}  # its own check says what is wrong with it
    return {**_multiplied(old, wanted / old["mean"] if old["mean"] else 1.0, ""), "mean": wanted}
