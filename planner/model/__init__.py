"""Models: what config.json says, as weights, caches and the rules that shard them."""

from __future__ import annotations

from llmfleet.planner.model.reader import model_from_config
from llmfleet.planner.model.types import Model

__all__ = ["Model", "model_from_config"]
