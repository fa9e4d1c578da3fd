"""Which inventory a plan was made from."""

from __future__ import annotations

import hashlib

from llmfleet.planner.inventory.model import Inventory


def inventory_hash(inventory: Inventory) -> str:
    """Equal inventories have equal hashes, however their text is written."""
    return hashlib.sha256(inventory.model_dump_json().encode()).hexdigest()[:12]
