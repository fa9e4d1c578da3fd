"""An inventory as text, from what was found: valid YAML, with comments for what only people know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import yaml

from llmfleet.launch.discover.found import Found
from llmfleet.launch.discover.groups import groups, host_range, name_range
from llmfleet.planner.inventory.model import Access

LONGEST_COMMENT = 150
HEAD = """\
# Written by `llmfleet init` from what the machines said of themselves. Change what you know better.
# Run it again to see what is different since; --merge takes that over. Every key: docs/inventory.md
# Next: fill in `services`, then llmfleet plan, llmfleet doctor, llmfleet up.

cluster: {cluster}
"""
ACCESS = "access: {access}   # how to reach the nodes; any node may override single keys\n"
RUNTIME = """\
runtime:
  python: {python}   # of the environment that has the engine; a node whose engine lies elsewhere has its own `runtime`

nodes:
"""
SERVICES = """
services: []   # at least one, in place of the []:
#  - name: chat                        # what clients write as `model`
#    model: Qwen/Qwen2.5-7B-Instruct   # an id that the catalogue knows, or a folder with a config.json
#    path: /models/Qwen2.5-7B-Instruct # weights on the nodes; `source:` names a folder here, to be copied
#    traffic: {rate: 2, input: {mean: 2000}, output: {mean: 300}}   # requests/s, tokens
#    slo: {ttft: 2s, tpot: 60ms}
"""


def inventory_text(machines: Sequence[Found], *, cluster: str, access: Access, python: str) -> str:
    shared = _differing(access, Access())
    parts = [HEAD.format(cluster=scalar(cluster)), ACCESS.format(access=flow(shared)) if shared else ""]
    parts += [
        RUNTIME.format(python=scalar(python)),
        *("\n".join(e) + "\n" for e in entries(machines, access)),
        SERVICES,
    ]
    return "".join(parts)


def entries(machines: Iterable[Found], access: Access, indent: int = 2) -> list[list[str]]:
    """Lines of each entry of `nodes`. `access` is the file's: only what differs from it is written."""
    space = " " * indent
    return [[f"{space}{line}" for line in _entry(members, access)] for members in groups(machines)]


def _entry(members: Sequence[Found], access: Access) -> list[str]:
    one = members[0]
    keys: dict[str, object] = {"name": name_range(members), "host": host_range(members)}
    keys |= {k: v for k, v in (("gpus", one.gpus), ("link", one.link), ("nic", one.nic)) if v is not None}
    lines = [comment(text) for text in _remarks(members)]
    first, *rest = (f"{key}: {scalar(str(value))}" for key, value in keys.items())
    lines += [f"- {first}", *(f"  {line}" for line in rest)]
    if one.interface:
        lines.append(f"  runtime: {flow({'interface': one.interface})}")
    own = _differing(one.access, access)
    if own:
        lines.append(f"  access: {flow(own)}")
    return lines + [f"  {comment(text)}" for text in one.problems]


def _remarks(members: Sequence[Found]) -> Iterable[str]:
    """What is the same of all is said once; where they differ, up to three kinds."""
    for texts in zip(*(m.remarks for m in members), strict=True):
        kinds = list(dict.fromkeys(texts))
        yield " | ".join(kinds[:3]) + (" | …" if len(kinds) > 3 else "")


def _differing(own: Access, base: Access) -> dict[str, object]:
    return {key: value for key, value in own.model_dump().items() if value != getattr(base, key)}


def scalar(text: str) -> str:
    """As YAML writes it, in quotes where it must."""
    written: str = yaml.safe_dump(text, width=10_000, allow_unicode=True)
    return written.removesuffix("\n...\n").rstrip("\n")


def flow(keys: dict[str, object]) -> str:
    written: str = yaml.safe_dump(keys, default_flow_style=True, width=10_000, sort_keys=False)
    return written.strip()


def comment(text: str) -> str:
    """One line, whatever a machine said."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return f"# {clean[:LONGEST_COMMENT]}"
