"""The cheapest nodes for a traffic: a published example, and prices that are not there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.unit.planning.fleets import models, planned

from llmfleet.cli.calibration import catalog_for
from llmfleet.cli.workspace import read_inventory
from llmfleet.planner.errors import InputError
from llmfleet.planner.make import make_plan
from llmfleet.planner.plan import Plan

EXAMPLE = Path(__file__).parents[3] / "examples" / "rent" / "inventory.yaml"


def rented() -> Plan:
    fleet = read_inventory(EXAMPLE)
    known = models(fleet)
    return make_plan(fleet, known, catalog_for(EXAMPLE, known.values()))


def test_the_example_of_melange_has_its_published_answer() -> None:
    plan = rented()
    assert Counter(i.nodes[0].split("-")[0] for i in plan.instances) == {"a10g": 3, "a100": 1}
    assert plan.price_per_hour == pytest.approx(3 * 1.01 + 3.67)
    assert plan.warnings == ()
    assert plan.services[0].capacity_rps >= 30
    assert next(o for o in plan.objectives if o.name == "cost").gap == pytest.approx(0, abs=1e-6)


def test_without_slices_less_is_enough() -> None:
    """Where any part of a cell may go anywhere, one A10G takes what the A100 cannot: 0.125 of its load."""
    text = EXAMPLE.read_text().replace("slices: 1 ", "slices: 0 ")
    fleet = read_inventory(EXAMPLE).model_copy()
    from llmfleet.planner.inventory.parse import parse

    known = models(fleet)
    plan = make_plan(parse(text, "inventory.yaml"), known, catalog_for(EXAMPLE, known.values()))
    assert plan.price_per_hour == pytest.approx(1.01 + 3.67)


def test_a_missing_price_is_an_error_that_names_the_nodes() -> None:
    text = """
cluster: c
nodes:
  - {name: a, host: h1, gpus: 1 x L4, price: 1}
  - {name: b, host: h2, gpus: 1 x A10}
services: [{name: s, model: Qwen/Qwen2.5-7B-Instruct, traffic: {rate: 1}}]
policy: {objective: cost}
"""
    with pytest.raises(InputError, match="cost, but b has no price"):
        planned(text)
