"""Parameters of whole models, by their configs: a change of any family's arithmetic shows.

Configs and totals were written down from what is generally known of the models, not fetched from their pages; that the
rules are right is held by the small checkpoints of test_checkpoints.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmfleet.planner.model import model_from_config

LINES = (Path(__file__).parents[2] / "data" / "known_sizes.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("row", [json.loads(line) for line in LINES], ids=lambda row: str(row["model"]))
def test_the_sum_of_a_models_tensors_is_its_known_size(row: dict[str, Any]) -> None:
    assert model_from_config(row["config"], name=row["model"]).params == row["params"]
