"""Where a service's weights come from, as `source:` says it: a path of the operator's machine, or a repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

Hub = Literal["hf", "modelscope"]
HUBS: tuple[Hub, ...] = ("hf", "modelscope")
EXPECTED = "hf:ORG/NAME or modelscope:ORG/NAME, with @REVISION and :FILE where wanted"
_PATTERN = re.compile(
    r"(?P<hub>hf|modelscope):(?P<model>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?"
    r"(:(?P<file>[\w.-]+(/[\w.-]+)*))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class HubSource:
    """`revision` None: the hub's default branch, whose commit is then kept to. `file`: that one alone."""

    hub: Hub
    model: str
    revision: str | None = None
    file: str | None = None

    @property
    def target(self) -> str:
        """Its path below the nodes' folder of models."""
        name = PurePosixPath(self.model).name + (f"@{self.revision.replace('/', '-')}" if self.revision else "")
        return f"{name}/{PurePosixPath(self.file).name}" if self.file else name


def hub_source(text: str) -> HubSource | None:
    """None for a path. ValueError for what begins like a hub's name and is none, and for a path without a name."""
    if not text.startswith(tuple(f"{hub}:" for hub in HUBS)):
        if PurePosixPath(text).name in ("", ".."):
            raise ValueError(f'expected a folder or file by its name, not "{text}".')
        return None
    found = _PATTERN.fullmatch(text)
    if found is None or ".." in text:
        raise ValueError(f'expected {EXPECTED}, not "{text}".')
    hub: Hub = "hf" if found["hub"] == "hf" else "modelscope"
    return HubSource(hub, found["model"], found["revision"], found["file"])


def source_target(text: str) -> str:
    """Path of a source's copy below the nodes' folder of models."""
    hub = hub_source(text)
    return hub.target if hub else PurePosixPath(text).name
