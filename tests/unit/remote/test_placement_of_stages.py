"""The pure part of vllm_ray.py: which bundles are asked for, and what is said when they do not come."""

from __future__ import annotations

from llmfleet.launch.remote.vllm_ray import bundles, parse_stages, shortage

STAGES = [("a800-1", 2), ("a800-0", 1)]


def test_bundles_follow_the_stages_not_the_names() -> None:
    assert parse_stages("a800-1=2,a800-0=1") == STAGES
    assert bundles(STAGES, "GPU") == [
        {"GPU": 1.0, "llmfleet_node_a800-1": 0.001},
        {"GPU": 1.0, "llmfleet_node_a800-1": 0.001},
        {"GPU": 1.0, "llmfleet_node_a800-0": 0.001},
    ]


def test_what_is_missing_is_named() -> None:
    joined = {"GPU": 1.0, "llmfleet_node_a800-1": 1.0}
    assert shortage(STAGES, "GPU", [joined]) == "a800-1 has 1 of 2 GPU free, a800-0 has not joined"
    full = {"llmfleet_node_a800-1": 1.0}
    assert shortage(STAGES, "GPU", [full, {"llmfleet_node_a800-0": 0.999, "GPU": 1.0}]) == "a800-1 has 0 of 2 GPU free"
    assert "has what is needed" not in shortage(STAGES, "GPU", [])
