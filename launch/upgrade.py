"""Another engine version, image or environment, as a change of the inventory's text."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field

import yaml

from llmfleet.launch.inventory_text import Key, with_value
from llmfleet.planner.errors import InputError
from llmfleet.planner.figures import EngineName
from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.inventory.ranges import expand


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to change. `nodes`: only on these; where none is named, on all that have no version of their own."""

    engine: EngineName
    version: str
    python: str | None = None
    image: str | None = None
    llama_server: str | None = None
    nodes: Collection[str] = ()

    @property
    def values(self) -> list[tuple[tuple[Key, ...], str]]:
        found: list[tuple[tuple[Key, ...], str]] = [(("runtime", "versions", self.engine), self.version)]
        places = {"python": self.python, "image": self.image, "llama_server": self.llama_server}
        return found + [(("runtime", key), place) for key, place in places.items() if place]


@dataclass(frozen=True, slots=True)
class Edited:
    """`kept`: nodes whose own version stays, by node."""

    before: str
    text: str
    kept: dict[str, str] = field(default_factory=dict)

    def diff(self, file: str) -> str:
        lines = difflib.unified_diff(self.before.splitlines(), self.text.splitlines(), file, file, lineterm="", n=1)
        return "\n".join(lines)


def upgraded(text: str, wish: Wish, file: str) -> Edited:
    """The inventory with the wish in it, in place. Raises InputError where the text cannot be edited so that exactly
    these nodes change, UnknownNameError for a node that is none."""
    before = parse(text, file)
    for name in wish.nodes:
        before.node(name)
    places: list[tuple[Key, ...]] = [("nodes", n) for n in _entries(text, wish.nodes)] if wish.nodes else [()]
    after = text
    for place in places:
        for path, value in wish.values:
            after = with_value(after, (*place, *path), value)
    changed = parse(after, file)
    kept = _kept(before, changed, wish)
    return Edited(text, after, kept)


def _entries(text: str, nodes: Collection[str]) -> list[int]:
    """Places in `nodes:` of the entries that are these nodes and no other."""
    entries = yaml.safe_load(text)["nodes"]
    found, left = [], set(nodes)
    for place, entry in enumerate(entries):
        members = set(expand(str(entry["name"])))
        if members <= set(nodes):
            found.append(place)
            left -= members
        elif members & set(nodes):
            raise InputError(
                f"{', '.join(sorted(members & set(nodes)))} share an entry of the inventory with {entry['name']}",
                hint="Split the entry in two, or name all of its nodes.",
            )
    return found


def _kept(before: Inventory, after: Inventory, wish: Wish) -> dict[str, str]:
    """Checks what the edit did, node by node: those that are meant have the wish, others are as they were."""
    kept = {}
    for node in after.nodes:
        version = node.runtime.versions.get(wish.engine)
        meant = node.name in wish.nodes if wish.nodes else version == wish.version
        if not meant and node != before.node(node.name):
            hint = "Its entry takes from the file what is to change: name the nodes that are meant with --node."
            raise InputError(f"{node.name} would change too", hint=hint)
        if meant and version != wish.version:
            raise InputError(f"{node.name} would keep {wish.engine} {version}", hint="Change the inventory by hand.")
        if not meant and node.gpus and version:
            kept[node.name] = version
    return kept
