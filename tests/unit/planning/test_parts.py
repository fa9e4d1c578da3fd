"""Lengths, classes, packing and ports, each by itself."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.planning.fleets import REFERENCE, inventory

from llmfleet.planner.candidates.lengths import length_model
from llmfleet.planner.candidates.node_classes import node_classes
from llmfleet.planner.catalog import catalog
from llmfleet.planner.choose.packing import divisible, fits, islands, patterns
from llmfleet.planner.errors import PlanError
from llmfleet.planner.inventory.asked import Lengths
from llmfleet.planner.ports import Ports


@pytest.mark.parametrize(
    ("given_lengths", "over", "part"),
    [
        (Lengths(mean=4000, p99=20_000), 20_000, 0.01),
        (Lengths(mean=4000, p99=20_000), 16_000, 0.0196),
        (Lengths(mean=1000, p50=800), 800, 0.5),
        (Lengths(mean=1000, p99=900), 1500, 0.0),
    ],
)
def test_the_tail_of_a_log_normal(given_lengths, over, part):
    assert length_model(given_lengths).part_over(over) == pytest.approx(part, abs=0.002)


@given(st.integers(1, 100_000), st.floats(1.05, 50), st.floats(0.1, 10))
def test_means_of_the_parts_make_the_mean(mean, tail, cut):
    lengths = length_model(Lengths(mean=mean, p99=int(mean * tail) + 1))
    threshold = mean * cut
    part = lengths.part_over(threshold)
    short, long = lengths.mean_between(0, threshold), lengths.mean_between(threshold, inf)
    assert short <= threshold * 1.001
    assert long >= threshold * 0.999
    if 1e-6 < part < 1 - 1e-6:
        assert (1 - part) * short + part * long == pytest.approx(lengths.mean, rel=1e-3)


def test_nodes_alike_are_one_class():
    classes = node_classes(inventory(REFERENCE), catalog(), {})
    assert [(c.name, len(c.nodes), len(c.free)) for c in classes] == [
        ("a800", 2, 8),
        ("h20", 2, 8),
        ("v100", 4, 4),
        ("p100", 4, 1),
    ]
    split = node_classes(inventory(REFERENCE), catalog(), {"a800-0": frozenset({0, 1})})
    assert [(c.name, c.free[0]) for c in split][:2] == [("a800-0", 2), ("a800-1", 0)]


@pytest.mark.parametrize(
    ("free", "island", "groups"),
    [
        ((0, 1, 2, 3), 4, [[0, 1, 2, 3]]),
        ((0, 1, 2, 3), 2, [[0, 1], [2, 3]]),
        ((0, 2, 3), 2, [[0], [2, 3]]),
    ],
)
def test_islands(free, island, groups):
    assert islands(free, island) == groups


@pytest.mark.parametrize(
    ("room", "sizes", "found"),
    [
        ([8], [4, 8], [{8: 1}, {4: 2}]),
        ([7], [1, 4, 7], [{7: 1}, {4: 1, 1: 3}, {1: 7}]),
        ([2, 2], [2], [{2: 2}]),
        ([1, 2], [2, 1], [{2: 1, 1: 1}, {1: 3}]),
        ([2, 2], [4], [{4: 1}]),
        ([1], [2], []),
    ],
)
def test_patterns_fill_a_node(room, sizes, found):
    assert patterns(room, sizes) == found
    assert all(fits(room, pattern) for pattern in found)


@given(st.integers(1, 16), st.lists(st.sampled_from([1, 2, 4, 8]), max_size=20))
def test_counting_is_enough_for_sizes_that_divide_each_other(free, slots):
    assert divisible(slots)
    counts = {size: slots.count(size) for size in set(slots)}
    enough = all(sum(n * s for s, n in counts.items() if s >= size) <= free // size * size for size in counts)
    assert fits([free], counts) == enough


def test_ports_step_over_the_router_and_end():
    ports = Ports(8100, {"a": (8101,)})
    assert [ports.take("a"), ports.take("a"), ports.take("b")] == [8100, 8102, 8100]
    with pytest.raises(PlanError, match="no port left"):
        Ports(65_536, {}).take("a")
