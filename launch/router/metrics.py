"""What Prometheus should ask, and a Grafana dashboard of it: made from the plan, for files of the operator's own."""

from __future__ import annotations

from collections.abc import Mapping

from llmfleet.launch.router.clusters import address_of
from llmfleet.launch.router.pools import routed_pools
from llmfleet.launch.router.xds import Json, to_yaml
from llmfleet.planner.plan import Plan

ROUTER_JOB, ENGINE_JOB = "llmfleet-router", "llmfleet-engines"
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
TOTAL = "envoy_cluster_endpoint_rq_total"
FIRST_TOKEN, NEXT_TOKEN = "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"
# What llama.cpp calls it, too; it has no histograms.
RUNNING = ("vllm:num_requests_running", "llamacpp:requests_processing")
WAITING = ("vllm:num_requests_waiting", "llamacpp:requests_deferred")


def prometheus_config(plan: Plan, hosts: Mapping[str, str]) -> str:
    """prometheus.yml for a Prometheus on the router's node: the router tells its figures on the loopback only."""
    engines = [
        {
            "targets": [f"{_bracketed(address_of(i.nodes[0], hosts))}:{i.port}"],
            "labels": {"instance": i.id, "service": i.service, "node": i.nodes[0], "fleet": plan.cluster},
        }
        for i in plan.instances
    ]
    router = {"targets": [f"127.0.0.1:{plan.router.admin_port}"], "labels": {"fleet": plan.cluster}}
    jobs = [
        {"job_name": ROUTER_JOB, "metrics_path": "/stats/prometheus", "static_configs": [router]},
        {"job_name": ENGINE_JOB, "metrics_path": "/metrics", "static_configs": engines},
    ]
    return to_yaml({"global": {"scrape_interval": "15s"}, "scrape_configs": jobs})


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def grafana_dashboard(plan: Plan) -> Json:
    """Import it in Grafana and choose the Prometheus that was set up with prometheus_config."""
    panels = [_panel(n, *panel) for n, panel in enumerate(_panels(plan))]
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "title": f"llmfleet {plan.cluster}",
        "uid": f"llmfleet-{plan.cluster}"[:40],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


Panel = tuple[str, str, list[tuple[str, str]]]  # title, unit, and of each line its query and name


def _panels(plan: Plan) -> list[Panel]:
    fleet = f'{{fleet="{plan.cluster}"}}'
    ours = f'{{fleet="{plan.cluster}",envoy_http_conn_manager_prefix="llmfleet"}}'
    each = f'{{fleet="{plan.cluster}",envoy_cluster_name=~".+[.](main|long|fallback)"}}'
    answered = f"sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx{ours}[1m]))"
    return [
        ("Answers by status", "reqps", [(answered, "{{envoy_response_code_class}}xx")]),
        ("Requests running in the router", "short", [(f"envoy_http_downstream_rq_active{ours}", "all")]),
        ("Requests by pool, fallbacks among them", "reqps", [
            (f"sum by (envoy_cluster_name) (rate({TOTAL}{each}[1m]))", "{{envoy_cluster_name}}")]),
        *_shares(plan),
        ("Requests tried again", "reqps", [
            (f"sum by (envoy_cluster_name) (rate(envoy_cluster_upstream_rq_retry{fleet}[1m])) > 0",
             "{{envoy_cluster_name}}")]),
        ("Healthy members of pools", "short", [
            (f"envoy_cluster_membership_healthy{each}", "{{envoy_cluster_name}}")]),
        ("Time to first token, p95", "s", [(_p95(FIRST_TOKEN, fleet), "{{instance}}")]),
        ("Time per output token, p95", "s", [(_p95(NEXT_TOKEN, fleet), "{{instance}}")]),
        ("Requests running in engines", "short", [(f"{name}{fleet}", "{{instance}}") for name in RUNNING]),
        ("Requests waiting in engines", "short", [(f"{name}{fleet}", "{{instance}}") for name in WAITING]),
        ("KV cache in use", "percentunit", [(f"vllm:kv_cache_usage_perc{fleet}", "{{instance}}")]),
        ("Prompt tokens from the prefix cache", "percentunit", [
            (f"rate(vllm:prefix_cache_hits_total{fleet}[5m]) / rate(vllm:prefix_cache_queries_total{fleet}[5m])",
             "{{instance}}")]),
        ("Engines that answer", "short", [(f'sum by (node) (up{{job="{ENGINE_JOB}",fleet="{plan.cluster}"}})',
                                          "{{node}}")]),
    ]  # fmt: skip


def _shares(plan: Plan) -> list[Panel]:
    """Of every pool with a choice: what each instance takes, and what its weight says."""
    made: list[Panel] = []
    for pool in (pool for service in plan.services for pool in routed_pools(plan, service) if len(pool.members) > 1):
        where = f'{{fleet="{plan.cluster}",envoy_cluster_name="{pool.cluster}"}}'
        taken = f"sum by (envoy_endpoint_hostname) (rate({TOTAL}{where}[5m]))"
        weights = sum(member.weight for member in pool.members)
        planned = [(f"vector({m.weight / weights:.4f})", f"{m.instance.id} by weight") for m in pool.members]
        line = (f"{taken} / scalar(sum({taken}))", "{{envoy_endpoint_hostname}}")
        made.append((f"Shares of {pool.cluster}", "percentunit", [line, *planned]))
    return made


def _p95(name: str, where: str) -> str:
    return f"histogram_quantile(0.95, sum by (instance, le) (rate({name}_bucket{where}[5m])))"


def _panel(n: int, title: str, unit: str, lines: list[tuple[str, str]]) -> Json:
    source = {"type": "prometheus", "uid": "${source}"}
    targets = [
        {"refId": f"Q{k}", "datasource": source, "expr": query, "legendFormat": name}
        for k, (query, name) in enumerate(lines)
    ]
    return {
        "id": n + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "gridPos": {"x": n % COLUMNS * WIDTH, "y": n // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "targets": targets,
    }
