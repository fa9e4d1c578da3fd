"""The one key that all engines of a fleet want from whoever asks, and that the router sends. It comes from a variable
of the operator's environment, lies on nodes in a file of its own, 0600, and is in no argv, log, state or plan.
"""

from __future__ import annotations

import hashlib
import os
import re

from llmfleet.launch.fleet import Fleet, NodeFolder
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import EngineName

VARIABLES: dict[EngineName, str] = {"vllm": "VLLM_API_KEY", "llama.cpp": "LLAMA_API_KEY"}  # from which each reads it
SHAPE = re.compile(r"[!-~]{8,256}")


def engine_key(fleet: Fleet) -> str | None:
    """None where engines answer anybody. Raises InputError where the variable is not set, or holds no key."""
    variable = fleet.inventory.engine_key_env
    if variable is None:
        return None
    key = os.environ.get(variable)
    if key is None:
        what = f"the environment variable {variable}, which should hold the engines' key, is not set"
        raise InputError(what, hint=f"read -rs {variable} && export {variable}")
    if not SHAPE.fullmatch(key):
        raise InputError(f"{variable} holds no key: 8 to 256 printable characters without blanks are wanted")
    return key


def key_path(folder: NodeFolder, key: str) -> str:
    """Where it lies on a node. Another key has another name, so that engines are seen to need a restart."""
    return f"{folder.keys}/engine-{hashlib.sha256(key.encode()).hexdigest()[:8]}.key"
