from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import rag_plan

from llmfleet.launch.router.names import client_names, fallbacks, served_names
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Plan

PLAN = rag_plan()


def with_service(plan: Plan, name: str, **changes: object) -> Plan:
    services = tuple(replace(s, **changes) if s.name == name else s for s in plan.services)  # type: ignore[arg-type]
    return replace(plan, services=services)


def test_services_and_model_ids_are_names() -> None:
    names = {name: service.name for name, service in client_names(PLAN).items()}
    assert names == {
        "chat": "chat",
        "chat-lite": "chat-lite",
        "embed": "embed",
        "rank": "rank",
        "Qwen/Qwen1.5-72B-Chat": "chat",
        "Qwen/Qwen1.5-14B-Chat": "chat-lite",
        "BAAI/bge-m3": "embed",
        "BAAI/bge-reranker-v2-m3": "rank",
    }


def test_a_shared_model_id_means_the_first_service() -> None:
    plan = with_service(PLAN, "chat-lite", model="Qwen/Qwen1.5-72B-Chat")
    assert client_names(plan)["Qwen/Qwen1.5-72B-Chat"].name == "chat"


def test_a_service_name_wins_over_a_model_id() -> None:
    plan = with_service(PLAN, "chat", model="chat-lite")
    assert client_names(plan)["chat-lite"].name == "chat-lite"


def test_engines_of_a_fallback_answer_to_the_names_they_stand_in_for() -> None:
    assert served_names(PLAN, PLAN.those(["chat-a"])[0]) == ("chat", "Qwen/Qwen1.5-72B-Chat")
    assert served_names(PLAN, PLAN.those(["lite-a"])[0]) == (
        "chat-lite",
        "Qwen/Qwen1.5-14B-Chat",
        "chat",
        "Qwen/Qwen1.5-72B-Chat",
    )


def test_fallbacks_of_fallbacks_and_circles() -> None:
    circle = with_service(PLAN, "chat-lite", fallback="chat")
    assert [s.name for s in fallbacks(circle, circle.services[0])] == ["chat-lite"]
    assert [s.name for s in fallbacks(circle, circle.services[1])] == ["chat"]


@pytest.mark.parametrize("fallback", ["embed", "nobody"])
def test_a_fallback_of_another_task_is_refused(fallback: str) -> None:
    plan = with_service(PLAN, "chat", fallback=fallback)
    with pytest.raises(InputError, match=f'"chat" falls back to "{fallback}", which is no generate service'):
        list(fallbacks(plan, plan.services[0]))
