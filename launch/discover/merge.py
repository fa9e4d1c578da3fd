"""An inventory that is there already, beside what was found: what differs, and the text with that taken over.

The text is edited in place, so that comments and order stay as people wrote them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import yaml

from llmfleet.launch.discover.found import Found
from llmfleet.launch.discover.written import entries, flow, scalar
from llmfleet.launch.inventory_text import last_index, line_end
from llmfleet.planner.catalog import catalog
from llmfleet.planner.errors import InputError, UnknownNameError
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.inventory.model import Access, Inventory, Node
from llmfleet.planner.inventory.parse import parse
from llmfleet.planner.inventory.ranges import expand
from llmfleet.planner.inventory.units import BANDWIDTH

Edit = tuple[int, int, str]  # from, to, what to put there


@dataclass(frozen=True, slots=True)
class Merged:
    """`by_hand`: differences that only a person can take over."""

    before: str
    text: str
    by_hand: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.text != self.before

    def diff(self, file: str) -> str:
        lines = difflib.unified_diff(
            self.before.splitlines(), self.text.splitlines(), file, f"{file} (found)", lineterm=""
        )
        return "\n".join(lines)


def merged(text: str, machines: Sequence[Found], file: str) -> Merged:
    """Raises InventoryError when the file is none, InputError when it cannot be edited."""
    inventory = parse(text, file, nodes_only=True)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    written = _value(root, "nodes")
    if not isinstance(written, yaml.SequenceNode) or not written.value:
        raise InputError(
            f"{file} has no nodes to compare with", hint="Write it anew: remove it, or name another --out."
        )
    by_host = {m.host.lower(): m for m in machines}
    edits: list[Edit] = []
    by_hand: list[str] = []
    for item in written.value:
        entry_edits, notes = _entry_changes(item, inventory, by_host, text)
        edits += entry_edits
        by_hand += notes
    known = {n.host.lower() for n in inventory.nodes}
    new = _renamed([m for m in machines if m.host.lower() not in known], {n.name for n in inventory.nodes})
    edits += _added(root, written, new, text)
    after = text
    for start, end, put in sorted(edits, reverse=True):
        after = after[:start] + put + after[end:]
    parse(after, file, nodes_only=True)  # whatever was put in, it is an inventory still
    return Merged(text, after, tuple(by_hand))


def _entry_changes(
    item: yaml.Node, inventory: Inventory, by_host: Mapping[str, Found], text: str
) -> tuple[list[Edit], list[str]]:
    """Of one entry: edits where all of its members say the same, notes where only some do."""
    name = _value(item, "name")
    members = [inventory.node(each) for each in expand(str(name.value))] if name else []
    pairs = [(node, by_host[node.host.lower()]) for node in members if node.host.lower() in by_host]
    edits, notes = [], []
    for key in ("gpus", "link", "nic"):
        wrong = [(node, found) for node, found in pairs if _differs(key, node, found)]
        values = {str(getattr(found, key)) for _, found in wrong}
        if len(wrong) == len(members) and len(values) == 1:
            edits.append(_edit(item, key, values.pop(), text))
        else:
            notes += [
                f"{node.name}: {key} is {getattr(found, key)}, but not of its whole range" for node, found in wrong
            ]
    return edits, notes + [f"{node.name}: {problem}" for node, found in pairs for problem in found.problems]


def _differs(key: str, node: Node, found: Found) -> bool:
    """What was not found says nothing; a GPU under another of its names is the same."""
    new, old = getattr(found, key), getattr(node, key)
    if new is None or old is None:
        return new is not None
    if key == "gpus":
        return _gpus(new) != _gpus(old)
    return bool(BANDWIDTH.parse(new) != old) if key == "nic" else bool(new != old)


def _gpus(text: str) -> tuple[int, str]:
    group = parse_gpus(text)
    try:
        return group.count, catalog().gpu(group.name).name
    except UnknownNameError:
        return group.count, group.name


def _edit(item: yaml.Node, key: str, value: str, text: str) -> Edit:
    """The value in its place, or a new key after the host."""
    old, host = _value(item, key), _value(item, "host")
    if old is not None:
        return old.start_mark.index, old.end_mark.index, scalar(value)
    if host is None:
        raise InputError("an entry of `nodes` has no host")
    if getattr(item, "flow_style", False):
        return host.end_mark.index, host.end_mark.index, f", {key}: {scalar(value)}"
    end = line_end(text, host.end_mark.index)
    return end, end, f"\n{' ' * item.start_mark.column}{key}: {scalar(value)}"


def _added(root: yaml.Node | None, written: yaml.SequenceNode, new: Sequence[Found], text: str) -> Iterator[Edit]:
    """After the last entry, written as the list is."""
    raw = _value(root, "access")
    access = (
        Access.model_validate(yaml.safe_load(text[raw.start_mark.index : raw.end_mark.index]) or {})
        if raw
        else Access()
    )
    lines = entries(new, access, written.start_mark.column)
    if not lines:
        return
    last = written.value[-1]
    if written.flow_style:
        body = [yaml.safe_load("\n".join(entry))[0] for entry in lines]
        yield last.end_mark.index, last.end_mark.index, "".join(f", {flow(keys)}" for keys in body)
        return
    end = line_end(text, last_index(last))
    yield end, end, "".join(f"\n{line}" for entry in lines for line in entry)


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _renamed(machines: Iterable[Found], taken: set[str]) -> list[Found]:
    """New machines whose own name another node has already."""
    renamed = []
    for machine in machines:
        name = machine.name
        while name in taken:
            name += "-x"
        taken.add(name)
        renamed.append(replace(machine, name=name))
    return renamed
