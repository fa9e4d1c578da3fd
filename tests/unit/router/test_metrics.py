"""The dashboard's queries ask for what router and engines tell."""

from __future__ import annotations

import re
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fleets import hosts_of, rag_plan
from running import RunningRouter

from llmfleet.launch.router.metrics import FIRST_TOKEN, NEXT_TOKEN, grafana_dashboard, prometheus_config

METRICS = Path(__file__).parents[2] / "data" / "metrics"


def queries() -> list[str]:
    return [target["expr"] for panel in grafana_dashboard(rag_plan())["panels"] for target in panel["targets"]]


def asked(prefix: str) -> set[str]:
    return {name for query in queries() for name in re.findall(rf"\b({prefix}[a-z_]+)\{{", query)}


def test_prometheus_asks_every_engine_and_the_router() -> None:
    plan = rag_plan()
    router, engines = yaml.safe_load(prometheus_config(plan, hosts_of(plan)))["scrape_configs"]
    assert router["static_configs"][0]["targets"] == ["127.0.0.1:9901"]
    asked_for = {each["labels"]["instance"]: each["targets"] for each in engines["static_configs"]}
    assert asked_for == {i.id: [f"127.0.0.1:{i.port}"] for i in plan.instances}
    assert "[fd00::1]:8100" in prometheus_config(plan, hosts_of(plan, "fd00::1"))


def test_engines_tell_what_is_asked() -> None:
    told = "".join(path.read_text() for path in METRICS.iterdir())
    histograms = {f"{FIRST_TOKEN}_bucket", f"{NEXT_TOKEN}_bucket"}  # the recorded page has no histograms of latency
    names = asked("vllm:") | asked("llamacpp:")
    assert len(names) >= 8
    assert {name for name in names - histograms if f"\n{name}{{" not in told and f"\n{name} " not in told} == set()


def test_shares_are_those_of_the_weights() -> None:
    panels = grafana_dashboard(rag_plan())["panels"]
    (shares,) = (panel for panel in panels if panel["title"].startswith("Shares"))
    assert [t["expr"] for t in shares["targets"][1:]] == ["vector(0.5714)", "vector(0.2857)", "vector(0.1429)"]
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)
    other = grafana_dashboard(replace(rag_plan(), cluster="other"))
    assert (other["title"], other["uid"]) == ("llmfleet other", "llmfleet-other")


@pytest.mark.live
def test_the_router_tells_what_is_asked(router: RunningRouter) -> None:
    router.chat()
    url = f"http://127.0.0.1:{router.admin_port}/stats/prometheus"
    with urllib.request.urlopen(url, timeout=10) as answer:
        told = answer.read().decode()
    names = asked("envoy_")
    assert len(names) >= 5
    assert {name for name in names if f"\n{name}{{" not in told} == set()
    pattern = r'envoy_cluster_endpoint_rq_total\{envoy_cluster_name="chat.main".*envoy_endpoint_hostname="chat-a"\} \d'
    assert re.search(pattern, told)
    assert 'envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="llmfleet"}' in told
