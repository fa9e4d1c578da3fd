from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import instance, rag_plan

from llmfleet.launch.router.pools import routed_pools, service_pools
from llmfleet.launch.router.routes import alive_pools
from llmfleet.planner.plan import EngineName, Pool

PLAN = rag_plan()


def clusters(pools: object) -> list[str]:
    return [pool.cluster for pool in pools]  # type: ignore[attr-defined]


def test_a_service_with_all_three() -> None:
    pools = service_pools(PLAN, PLAN.services[0])
    assert pools.primary is not None and pools.long is not None
    assert (pools.primary.cluster, pools.long.cluster, pools.long.over_tokens) == ("chat.main", "chat.long", 16_000)
    assert (clusters(pools.spare), clusters(pools.degraded)) == (["chat.long"], ["chat-lite.fallback"])
    assert clusters(alive_pools(pools)) == ["chat.main", "chat.long", "chat-lite.fallback"]
    assert clusters(alive_pools(pools, long=True)) == ["chat.long", "chat.main"]


def test_long_prompts_do_not_go_where_they_cannot_fit() -> None:
    short = replace(
        PLAN, instances=tuple(replace(i, max_model_len=min(i.max_model_len, 16_000)) for i in PLAN.instances[:3])
    )
    plan = replace(short, instances=(*short.instances, *PLAN.instances[3:]))
    assert clusters(alive_pools(service_pools(plan, plan.services[0]), long=True)) == ["chat.long"]


def test_a_service_that_is_only_a_fallback() -> None:
    pools = service_pools(PLAN, PLAN.services[1])
    assert pools.primary is not None
    assert (pools.primary.cluster, pools.long, pools.spare, pools.degraded) == ("chat-lite.fallback", None, (), ())


def test_a_service_without_instances() -> None:
    bare = replace(PLAN.services[2], pools=())
    plan = replace(PLAN, services=(*PLAN.services[:2], bare))
    pools = service_pools(plan, bare)
    assert (pools.primary, alive_pools(pools), routed_pools(plan, bare)) == (None, (), ())


def test_pools_of_one_role_share_a_pool_by_their_shares() -> None:
    """Weights count inside a pool: 3 + 1 of a pool with three quarters of the traffic, 10 of one with a quarter."""
    members = [("a", 3), ("b", 1), ("c", 10)]
    instances = tuple(instance(n, "chat", "m", "generate", n, 8100, weight=w) for n, w in members)
    pools = (Pool("fast", ("a", "b"), 0.75, "main"), Pool("slow", ("c",), 0.25, "main"))
    service = replace(PLAN.services[0], pools=pools, fallback=None)
    (pool,) = routed_pools(replace(PLAN, instances=instances, services=(service,)), service)
    assert [(m.instance.id, m.pool, m.weight) for m in pool.members] == [
        ("a", "fast", 562),
        ("b", "fast", 188),
        ("c", "slow", 250),
    ]


@pytest.mark.parametrize(
    ("engine", "version", "cap"),
    [("vllm", "0.32.0", None), ("vllm", "0.29.0", None), ("vllm", "0.28.1", 64), ("llama.cpp", "b6000", 64)],
)
def test_engines_that_never_refuse_are_capped(engine: EngineName, version: str, cap: int | None) -> None:
    instances = tuple(replace(i, engine=engine, engine_version=version) for i in PLAN.instances)
    (pool,) = routed_pools(replace(PLAN, instances=instances), PLAN.services[2])
    assert [m.cap for m in pool.members] == [cap]


def test_an_unused_pool_still_has_weight() -> None:
    pools = (Pool("fast", ("chat-a",), 1.0, "main"), Pool("slow", ("chat-b",), 0.0, "main"))
    service = replace(PLAN.services[0], pools=pools, fallback=None)
    (pool,) = routed_pools(replace(PLAN, services=(service,)), service)
    assert [m.weight for m in pool.members] == [1000, 1]
