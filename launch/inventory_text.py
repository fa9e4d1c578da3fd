"""One value set in an inventory's text, in place: comments, order and style stay as people wrote them."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from llmfleet.launch.discover.written import scalar
from llmfleet.planner.errors import InputError

Key = str | int  # an int is a place in a list


def with_value(text: str, path: Sequence[Key], value: str) -> str:
    """`path`: as ("runtime", "versions", "vllm"). Raises InputError where the text is no YAML mapping, or where the
    path leads through something that is none."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"the inventory is no YAML: {error}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError("the inventory is no mapping")
    node: yaml.Node = root
    for depth, key in enumerate(path):
        below = _below(node, key)
        if below is None or _empty(below):
            return _inserted(text, node, below, path[depth:], value)
        node = below
    if not isinstance(node, yaml.ScalarNode):
        raise _no_mapping(path)
    return text[: node.start_mark.index] + scalar(value) + text[node.end_mark.index :]


def _below(node: yaml.Node, key: Key) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        found: yaml.Node = node.value[key]
        return found
    if not isinstance(node, yaml.MappingNode) or isinstance(key, int):
        raise _no_mapping((key,))
    return next((value for name, value in node.value if name.value == key), None)


def _empty(node: yaml.Node) -> bool:
    """`key:` with nothing behind it, or `{}`: as if it were not there."""
    return (isinstance(node, yaml.ScalarNode) and node.value == "") or (
        isinstance(node, yaml.MappingNode) and not node.value
    )


def _inserted(text: str, parent: yaml.Node, empty: yaml.Node | None, rest: Sequence[Key], value: str) -> str:
    """The rest of the path as a new key of the parent, in the parent's own style; all below it on one line."""
    key, flow = rest[0], scalar(value)
    for below in reversed(rest[1:]):
        flow = f"{{{below}: {flow}}}"
    if empty is not None:
        gap = "" if empty.start_mark.index != empty.end_mark.index else " "
        return text[: empty.start_mark.index] + gap + flow + text[empty.end_mark.index :]
    if not isinstance(parent, yaml.MappingNode) or not parent.value:
        raise _no_mapping(rest)
    last = parent.value[-1][1]
    if parent.flow_style:
        end = last.end_mark.index
        return f"{text[:end]}, {key}: {flow}{text[end:]}"
    end = line_end(text, last_index(last))
    return f"{text[:end]}\n{' ' * parent.value[0][0].start_mark.column}{key}: {flow}{text[end:]}"


def last_index(node: yaml.Node) -> int:
    """Where its last word ends: a block's own end mark stands only after the comments behind it."""
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False) or not node.value:
        return int(node.end_mark.index)
    below = node.value[-1]
    return last_index(below[1] if isinstance(below, tuple) else below)


def line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found


def _no_mapping(path: Sequence[Key]) -> InputError:
    return InputError(f"{'.'.join(map(str, path))} cannot be set in the inventory's text", hint="Change it by hand.")
