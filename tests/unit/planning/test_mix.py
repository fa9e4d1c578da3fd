"""What comes to an instance that long and short prompts share."""

import pytest
from tests.unit.planning.fleets import REFERENCE, inventory, models

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.mix import mix_of
from llmfleet.planner.make import decided


@pytest.fixture(scope="module")
def h20() -> Candidate:
    fleet = inventory(REFERENCE)
    counts = decided(fleet, models(fleet)).counts
    return next(c for c in counts if c.service == "chat" and c.role == "long")


def kinds(c: Candidate) -> tuple[float, float]:
    short, long = c.demand.buckets
    return short.request.new, long.request.new


def test_one_kind_alone_is_itself(h20: Candidate) -> None:
    for bucket in h20.demand.buckets:
        mix = mix_of(h20, {bucket.name: 0.3})
        assert (mix.request, mix.limits, mix.threshold) == (bucket.request, bucket.limits, 0)


def test_nothing_is_as_everything_that_its_role_takes(h20: Candidate) -> None:
    assert mix_of(h20, {}) == mix_of(h20, {b.name: b.part for b in h20.demand.buckets})


@pytest.mark.parametrize(("long", "kept"), [(0.01, "short"), (0.049, "short"), (0.051, "long"), (0.9, "long")])
def test_the_limits_are_those_of_the_kind_at_the_percentile(h20: Candidate, long: float, kept: str) -> None:
    bucket = next(b for b in h20.demand.buckets if b.name == kept)
    mix = mix_of(h20, {"short": 1 - long, "long": long})
    assert mix.limits == bucket.limits
    assert mix.request.tail_len == bucket.request.tail_len


def test_prompts_are_means_of_their_kinds_and_as_unequal_as_both_make_them(h20: Candidate) -> None:
    short, long = h20.demand.buckets
    request = mix_of(h20, {"short": 0.45, "long": 0.05}).request
    assert request.input_len == pytest.approx(0.9 * short.request.input_len + 0.1 * long.request.input_len)
    ours, theirs = (b.request.unequally(b.limits.z) for b in (short, long))
    few, many = kinds(h20)
    met = 3 * 2048 / many  # of the pieces that the long ones are computed in
    square = 0.9 * few**2 * ours + 0.1 * many**2 * theirs * met
    assert request.unequal == pytest.approx(square / (0.9 * few + 0.1 * many) ** 2)
    assert request.unequal > max(ours, theirs)


def test_a_few_long_prompts_make_the_wait_longer_than_as_many_tokens_in_short_ones(h20: Candidate) -> None:
    mixed, short = (mix_of(h20, parts) for parts in ({"short": 0.97, "long": 0.03}, {"short": 1.0}))
    load = 0.3
    waits = []
    for mix in (mixed, short):
        batching = mix.batching(h20)
        steady = batching.at_rate(load / batching.occupancy_s)
        waits.append(steady.ttft_s - batching.prefill_s)
    assert waits[0] > waits[1]


def test_only_where_both_come_a_prompt_gets_a_part_of_a_step(h20: Candidate) -> None:
    assert h20.settings.max_num_batched_tokens == 8192
    assert mix_of(h20, {"short": 0.9, "long": 0.1}).threshold == 2048
    assert mix_of(h20, {"short": 0.001, "long": 0.999}).threshold == 0
