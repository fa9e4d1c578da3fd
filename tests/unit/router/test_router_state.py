from __future__ import annotations

import json

import pytest

from llmfleet.launch.router.state import (
    InstanceTraffic,
    clusters_url,
    in_flight,
    parse_clusters,
    parse_stats,
    stats_url,
)
from llmfleet.planner.errors import StateError

ANSWER = {
    "cluster_statuses": [
        {"name": "chat.any"},
        {
            "name": "chat.main",
            "observability_name": "chat.main",
            "host_statuses": [
                {
                    "address": {"socket_address": {"address": "10.0.1.1", "port_value": 8100}},
                    "stats": [
                        {"name": "cx_connect_fail", "value": "2"},
                        {"name": "rq_error", "value": "3"},
                        {"name": "rq_success", "value": "40"},
                        {"name": "rq_timeout"},
                        {"name": "rq_total", "value": "50"},
                        {"name": "rq_active", "value": "7", "type": "GAUGE"},
                    ],
                    "health_status": {"eds_health_status": "DRAINING", "failed_active_health_check": True},
                    "weight": 100,
                    "hostname": "chat-a",
                },
                {
                    "address": {"socket_address": {"address": "10.0.1.2", "port_value": 8100}},
                    "health_status": {"eds_health_status": "HEALTHY"},
                    "weight": 50,
                    "hostname": "chat-b",
                },
            ],
        },
    ]
}


def test_clusters() -> None:
    one, other = parse_clusters(json.dumps(ANSWER))
    assert one == InstanceTraffic(
        instance="chat-a",
        cluster="chat.main",
        address="10.0.1.1:8100",
        active=7,
        total=50,
        success=40,
        error=3,
        timeout=0,
        connect_failures=2,
        weight=100,
        draining=True,
        healthy=False,
        flags=("failed_active_health_check",),
    )
    assert (other.instance, other.active, other.draining, other.healthy) == ("chat-b", 0, False, True)
    assert in_flight((one, other), frozenset({"chat-a", "chat-b"})) == 7
    assert in_flight((one, other), frozenset({"chat-b"})) == 0


def test_behind_a_gate() -> None:
    """The pool's endpoint is the gate, the instance's address that of the cluster behind it."""
    gate = {"envoy_internal_address": {"server_listener_name": "caps", "endpoint_id": "chat-b"}}
    engine = {"socket_address": {"address": "10.0.1.2", "port_value": 8100}}
    answer = {
        "cluster_statuses": [
            {"name": "at.chat-b", "host_statuses": [{"address": engine}]},
            {"name": "chat.main", "host_statuses": [{"address": gate, "hostname": "chat-b", "weight": 5}]},
        ]
    }
    (one,) = parse_clusters(json.dumps(answer))
    assert (one.instance, one.cluster, one.address, one.weight) == ("chat-b", "chat.main", "10.0.1.2:8100", 5)


def test_a_starting_router_knows_nobody() -> None:
    assert parse_clusters("{}\n") == ()
    assert parse_stats("{}\n") == {}


@pytest.mark.parametrize("text", ["", "<html>", "[]", "7", '{"cluster_statuses": [{"host_statuses": [{}]}]}'])
def test_other_answers_to_clusters(text: str) -> None:
    with pytest.raises(StateError, match="something else than its clusters"):
        parse_clusters(text)


@pytest.mark.parametrize(
    "text", ["", "<html>", "[]", '{"stats": [{"value": 1}]}', '{"stats": [{"name": "x", "value": "y"}]}']
)
def test_other_answers_to_stats(text: str) -> None:
    with pytest.raises(StateError, match="something else than its stats"):
        parse_stats(text)


def test_stats() -> None:
    text = '{"stats": [{"name": "http.llmfleet.downstream_rq_active", "value": 3}, {"histograms": {}}]}'
    assert parse_stats(text) == {"http.llmfleet.downstream_rq_active": 3}


def test_urls() -> None:
    assert clusters_url(9901) == "http://127.0.0.1:9901/clusters?format=json"
    assert stats_url(9901, "downstream_rq") == "http://127.0.0.1:9901/stats?format=json&filter=downstream_rq"
