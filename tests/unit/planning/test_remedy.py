"""What a plan advises where it is short: planned again with that, it is not."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.unit.planning.fleets import REFERENCE, inventory, models, planned
from tests.unit.planning.test_short import small

from llmfleet.planner.inventory.model import Inventory
from llmfleet.planner.make import make_plan
from llmfleet.planner.plan import Plan
from llmfleet.planner.what_if import ask

EMBED = "  - {name: embed, model: BAAI/bge-m3, task: embed, traffic: {rate: 3000, input: {mean: 500}}}\n"
SHORT = {
    "one service": small(rate=500),
    "two services": small(rate=60) + EMBED,
    "after a loss": small(rate=20) + "policy: {redundancy: 1}\n",
    "inside an SLO": REFERENCE.replace("rate: 1.2", "rate: 9"),
    "no GPUs at all": small().replace(", gpus: 2 x RTX-4090", ""),
    "a model that no node holds": small("Qwen/Qwen1.5-72B-Chat"),
    "an SLO that no node keeps": small(extra=", slo: {ttft: 1s, tpot: 7ms}"),
    "without prices": small("Qwen/Qwen1.5-72B-Chat").replace("4090}", "4090, price: 2}")
    + "policy: {objective: min-nodes}\n",
}


def advised(plan: Plan) -> list[str]:
    return [term for said in plan.warnings if "planned again" in said for term in re.findall(r'"(\+[^"]+)"', said)]


def after(terms: Sequence[str], fleet: Inventory) -> Plan:
    then = ask(terms, fleet)
    return make_plan(then, models(then))


def one_fewer(terms: Sequence[str]) -> list[str]:
    count, kind = re.fullmatch(r"\+(\d+) (.*)", terms[0]).groups()
    return [f"+{int(count) - 1} {kind}"] * (count != "1") + list(terms[1:])


@pytest.mark.parametrize("case", SHORT)
def test_what_is_advised_is_enough_and_no_more(case: str) -> None:
    terms = advised(planned(SHORT[case]))
    fleet = inventory(SHORT[case])
    assert len(terms) == 1
    assert after(terms, fleet).warnings == ()
    assert after(one_fewer(terms), fleet).warnings != ()


def test_the_smallest_node_of_the_catalogue_where_none_here_would_do() -> None:
    said = planned(SHORT["a model that no node holds"]).warnings
    assert said[1] == (
        "chat: no nodes like those here would do; the smallest of the catalogue that would: 2 x H100-80G"
    )
    assert said[2] == (
        "1 more node with 2 x H100-80G would close the gap: planned again with it, chat would be short of nothing "
        '(--what-if "+1 2 x H100-80G")'
    )


def test_an_slo_that_no_gpu_keeps() -> None:
    said = planned(small(extra=", slo: {ttft: 1ms}")).warnings
    assert said[1:] == ("chat: no number of nodes would do, whatever GPU of the catalogue they had",)


def test_the_cheapest_nodes_where_all_have_prices() -> None:
    text = small(rate=60).replace(
        "gpus: 2 x RTX-4090}",
        "gpus: 2 x RTX-4090, price: PRICE}\n  - {name: m1, host: 10.0.0.2, gpus: 1 x A100-80G, price: 3/h}",
    )
    kinds = [advised(planned(text.replace("PRICE", price)))[0].split()[1] for price in ("1/h", "20/h")]
    assert kinds == ["n1", "m1"]


def test_a_fleet_that_takes_long_to_plan_is_not_planned_again() -> None:
    said = planned(small(rate=100_000)).warnings
    assert "about 4,736 more nodes like n1 would close the gap, by arithmetic" in said[1]


def test_at_the_lowest_cost_the_terms_can_be_planned_though_nobody_knows_the_price() -> None:
    text = small("Qwen/Qwen1.5-72B-Chat").replace("4090}", "4090, price: 2}") + "policy: {objective: cost}\n"
    (said,) = (warning for warning in planned(text).warnings if "planned again" in warning)
    terms = re.findall(r'"([^"]+)"', said)
    assert terms[-1] == "policy.objective=goodput"
    assert after(terms, inventory(text)).warnings == ()


def test_nothing_is_advised_for_instances_that_are_fixed_by_hand() -> None:
    text = small(rate=500).replace("output: {mean: 100}}", "output: {mean: 100}}, placement: [{nodes: [n1]}]")
    assert len(planned(text).warnings) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(("2 x A800-80G", "1 x L4", "4 x RTX-4090", "2 x V100-32G")), min_size=1, max_size=3),
    st.sampled_from((1, 10, 100)), st.sampled_from(("150ms", "40ms", "15ms")), st.booleans(),
)  # fmt: skip
def test_advice_on_any_fleet_is_enough(nodes: list[str], rate: int, tpot: str, long: bool) -> None:
    lines = [f"  - {{name: k{i}, host: 10.0.0.{i}, gpus: {gpus}}}" for i, gpus in enumerate(nodes)]
    traffic = f"{{rate: {rate}, input: {{mean: 2000, p99: 12000}}, output: {{mean: 200}}}}"
    chat = f"  - {{name: chat, model: Qwen/Qwen2.5-14B-Instruct, slo: {{ttft: 3s, tpot: {tpot}}}, traffic: {traffic}"
    chat += ", long_context: {over: 8k}}" if long else "}"
    fleet = inventory("\n".join(["cluster: c", "nodes:", *lines, "services:", chat, EMBED]))
    terms = advised(make_plan(fleet, models(fleet)))
    assume(terms)
    assert after(terms, fleet).warnings == ()
