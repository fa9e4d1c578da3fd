"""The plan's routing for other routers. `make check-exports` has them route; here they judge their configuration."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fleets import hosts_of, rag_plan, with_caps

from llmfleet.launch.router.exports import FORMATS, exported
from llmfleet.launch.router.exports.export import AFFINITY, BOUND, CAPS, FALLBACK, LONG, WEIGHTS, scaled
from llmfleet.planner.plan import Plan, RouterPlan

PLAN = replace(with_caps(rag_plan(), chat_c=12), router=RouterPlan("head", "127.0.0.1", 8080, 9901))
LOST = {
    "vllm-router": {WEIGHTS, BOUND, CAPS, LONG, FALLBACK},
    "ray-serve": {AFFINITY, BOUND, LONG, FALLBACK},
    "haproxy": {LONG},
    "nginx": {BOUND, LONG},
    "litellm": {AFFINITY, BOUND, LONG},
    "llm-d": {WEIGHTS, BOUND, CAPS, LONG, FALLBACK},
}
ALL = {AFFINITY, BOUND, CAPS, FALLBACK, LONG, WEIGHTS}


def text(form: str, plan: Plan = PLAN) -> str:
    return exported(form, plan, hosts_of(plan)).text


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_dropped_is_said(form: str) -> None:
    assert set(exported(form, PLAN, hosts_of(PLAN)).dropped) & ALL == LOST[form]


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_said_to_be_dropped_that_the_plan_has_not(form: str) -> None:
    plan = replace(rag_plan(), services=rag_plan().services[2:])
    assert not set(exported(form, plan, hosts_of(plan)).dropped) & {CAPS, LONG, FALLBACK}


@pytest.mark.parametrize("form", ["vllm-router", "haproxy", "nginx", "litellm"])
def test_every_ordinary_instance_is_reached(form: str) -> None:
    found = text(form)
    assert all(f"127.0.0.1:{i.port}" in found for i in PLAN.instances if i.id != "chat-long")


def test_weights_and_caps() -> None:
    assert "server chat-c 127.0.0.1:8102 weight 25 maxconn 12" in text("haproxy")
    assert "server 127.0.0.1:8102 weight=25 max_conns=12" in text("nginx")
    deployments = {d["model_info"]["id"]: d for d in yaml.safe_load(text("litellm"))["model_list"]}
    assert deployments["chat-c"]["litellm_params"]["weight"] == 25
    assert deployments["chat-c"]["litellm_params"]["max_parallel_requests"] == 12


def test_fallbacks() -> None:
    assert yaml.safe_load(text("litellm"))["router_settings"]["fallbacks"] == [{"chat": ["chat-lite"]}]
    assert "server fallback-lite-a 127.0.0.1:8104 backup" in text("haproxy")


def test_unequal_instances_are_models_of_their_own_in_ray_serve() -> None:
    plan = replace(PLAN, instances=tuple(replace(i, tp=4) if i.id == "chat-a" else i for i in PLAN.instances))
    (app,) = yaml.safe_load(text("ray-serve", plan))["applications"]
    models = {
        c["model_loading_config"]["model_id"]: (
            c["deployment_config"]["num_replicas"],
            len(c["placement_group_config"]["bundles"]),
        )
        for c in app["args"]["llm_configs"]
    }
    assert models == {"chat@0": (2, 1), "chat@1": (1, 4), "chat-lite": (1, 1), "embed": (1, 1), "rank": (1, 1)}


def test_pools_and_routes_of_the_gateway_api() -> None:
    found = [(d["kind"], d["metadata"]["name"]) for d in yaml.safe_load_all(text("llm-d"))]
    assert found == [(k, s.name) for s in PLAN.services for k in ("InferencePool", "HTTPRoute")]


def test_large_weights_keep_their_proportions() -> None:
    assert scaled([1000, 500, 1], 256) == [256, 128, 1]
    assert scaled([100, 50, 25], 256) == [100, 50, 25]


@pytest.mark.live
@pytest.mark.parametrize(
    ("form", "command"),
    [
        ("haproxy", ("haproxy", "-c", "-f")),
        ("nginx", ("nginx", "-t", "-q", "-e", "stderr", "-g", "pid nginx.pid;", "-c")),
    ],
)
def test_they_take_it(form: str, command: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed here")
    path = tmp_path / "conf"
    path.write_text(text(form))
    done = subprocess.run((*command, str(path)), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
