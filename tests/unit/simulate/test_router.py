"""The simulated router: shares follow weights, prefixes stay together, and no member runs over its bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from tests.unit.simulate.engines import one_engine, planned, ran, requests_of, stream

from llmfleet.planner.simulate.arrays import R_ENGINE, R_OUTCOME, TOO_LONG
from llmfleet.planner.simulate.fleet import Fleet, Policy, fleet_of
from llmfleet.planner.simulate.requests import Stream, spots

WEIGHTS = (0.5, 0.3, 0.2)


def three() -> Fleet:
    """Three engines alike, with unlike weights."""
    alone = one_engine(blocks=4000, seqs=64)
    pool = replace(alone.pools[0], members=(0, 1, 2), weights=WEIGHTS)
    return Fleet(alone.engines * 3, (pool,), {("chat", False): (0, 0, 0)}, frozenset())


def at_once(count: int, document: int | None = None) -> Stream:
    return stream([(0.0, 600, 20)] * count, [[document, document + 1]] * count if document is not None else None)


def counts(policy: Policy, requests: Stream) -> list[int]:
    found = Counter(requests_of(ran(three(), requests, policy=policy))[:, R_ENGINE].tolist())
    return [found[i] for i in range(3)]


def test_turns_are_even_or_by_weight() -> None:
    assert counts("round-robin", at_once(30)) == [10, 10, 10]
    assert counts("weights", at_once(30)) == [15, 9, 6]
    assert counts("least-request", at_once(30)) == [10, 10, 10]


def test_one_prefix_stays_on_one_engine_without_a_bound() -> None:
    assert sorted(counts("affinity", at_once(30, document=0))) == [0, 0, 30]


def test_a_hot_prefix_spreads_within_the_bound() -> None:
    """As Envoy counts: no member runs more than 1.5 times its weight's part of all requests, rounded up."""
    found = counts("router", at_once(40, document=0))
    assert sum(found) == 40
    assert all(n <= np.ceil(40 * 1.5 * weight) for n, weight in zip(found, WEIGHTS, strict=True))


def test_many_prefixes_come_out_as_the_weights() -> None:
    rows = [(i * 0.5, 100, 2) for i in range(2000)]
    found = counts("router", stream(rows))
    assert np.allclose(np.array(found) / 2000, WEIGHTS, atol=0.04)


def test_equal_keys_have_equal_places_and_others_spread_evenly() -> None:
    keys = np.arange(20_000)
    places = spots(keys, 1)
    assert (places == spots(keys, 1)).all()
    assert (places != spots(keys, 2)).all()
    assert np.histogram(places, 10, (0, 1))[0].min() > 1800


def test_long_prompts_go_where_they_fit() -> None:
    """A pool whose engines take shorter ones refuses them; the next try is another pool's."""
    alone = one_engine(longest=512)
    wide = one_engine(longest=2048).engines[0]
    pools = (alone.pools[0], replace(alone.pools[0], role="long", members=(1,)))
    fleet = Fleet((*alone.engines, wide), pools, {("chat", False): (0, 1)}, frozenset())
    request = requests_of(ran(fleet, stream([(0.0, 400, 10), (0.0, 1000, 10), (0.0, 3000, 10)])))
    assert request[:2, R_ENGINE].tolist() == [0, 1]
    assert request[2, R_OUTCOME] == TOO_LONG


def test_a_plan_becomes_a_fleet() -> None:
    decision, plan = planned()
    fleet = fleet_of(decision, plan)
    assert [e.instance.id for e in fleet.engines] == [i.id for i in plan.instances]
    assert all(abs(sum(pool.weights) - 1) < 1e-9 for pool in fleet.pools)
    assert all(e.blocks * e.block <= e.instance.kv_cache_memory_bytes for e in fleet.engines)
