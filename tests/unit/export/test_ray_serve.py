"""The Serve application: every instance, GPU and argument of the plan is in it, and Envoy takes the router's files.
After a change that is meant, `python -m tests.unit.export.test_ray_serve` writes the golden files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.export.exported import ONE_NODE, SPANNING
from tests.unit.planning.fleets import EXAMPLE, REFERENCE, inventory, planned

from llmfleet.launch.commands.ray import SILENT_NODE, SILENT_PEER
from llmfleet.launch.export.kinds import Export, kinds_of
from llmfleet.launch.export.ray_serve import ray_serve
from llmfleet.launch.export.serve_app import OWN_PLACES, serve_config
from llmfleet.launch.router.validate import merged_static, validate_command
from llmfleet.planner.errors import InputError

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_OF = {"serve-reference": REFERENCE, "serve-one-node": ONE_NODE}
SERVE_FAILURES = 3  # of a replica's health checks in a row: REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD of Ray Serve
FLEETS = {"reference": REFERENCE, "example": EXAMPLE, "one-node": ONE_NODE, "spanning": SPANNING}


def export(text: str, **options: Any) -> Export:
    return ray_serve(inventory(text), planned(text), **options)


def arguments(made: Export) -> dict[str, Any]:
    (application,) = yaml.safe_load(made.files["serve.yaml"])["applications"]
    found: dict[str, Any] = application["args"]
    return found


@pytest.mark.parametrize("name", GOLDEN_OF)
def test_reads_as_it_was_read(name: str) -> None:
    made = export(GOLDEN_OF[name])
    assert made == export(GOLDEN_OF[name])
    assert made.files["serve.yaml"] == (GOLDEN / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", FLEETS)
def test_every_instance_gpu_and_argument_of_the_plan_is_there(name: str) -> None:
    plan = planned(FLEETS[name])
    made = export(FLEETS[name])
    kinds, most = arguments(made)["kinds"], replicas(made)
    for instance in plan.instances:
        mine = [k for n, k in kinds.items() if n.startswith(f"{instance.service}-") and fits(k, instance)]
        assert mine, instance.id
    assert most.keys() == kinds.keys() and sum(most.values()) == len(plan.instances)
    assert sum(gpus(k) * most[n] for n, k in kinds.items()) == sum(i.tp * i.pp for i in plan.instances)


def replicas(made: Export) -> dict[str, int]:
    """Of each kind, at most."""
    (application,) = yaml.safe_load(made.files["serve.yaml"])["applications"]
    return {d["name"]: d["autoscaling_config"]["max_replicas"] for d in application["deployments"]}


def options(kind: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = kind["llm_config"]["deployment_config"] if "llm_config" in kind else kind["options"]
    return found


def gpus(kind: dict[str, Any]) -> int:
    if "llm_config" in kind:
        return sum(b.get("GPU", 0) for b in kind["llm_config"]["placement_group_config"]["bundles"])
    return int(kind["options"]["ray_actor_options"]["num_gpus"])


def fits(kind: dict[str, Any], instance: Any) -> bool:
    if options(kind)["autoscaling_config"]["target_ongoing_requests"] != instance.max_concurrency:
        return False
    if "llm_config" not in kind:
        words = kind["engine"]["argv"]
        return instance.weights_path in words and "{port}" in words
    given = kind["llm_config"]["engine_kwargs"]
    expected = {
        "tensor_parallel_size": instance.tp,
        "pipeline_parallel_size": instance.pp if instance.pp > 1 else None,
        "max_model_len": instance.max_model_len,
        "max_num_seqs": instance.max_num_seqs,
        "max_num_batched_tokens": instance.max_num_batched_tokens,
        "kv_cache_memory_bytes": instance.kv_cache_memory_bytes or None,
        "gpu_memory_utilization": instance.gpu_memory_utilization,
    }
    source = kind["llm_config"]["model_loading_config"]["model_source"]
    return {k: given.get(k) for k in expected} == expected and source == instance.weights_path


def test_how_many_there_are_is_no_argument() -> None:
    """Serve starts every engine anew where arguments change."""
    plan, kinds = planned(REFERENCE), kinds_of(inventory(REFERENCE), planned(REFERENCE))
    whole, none = (serve_config(plan, kinds, OWN_PLACES, present) for present in (None, {}))
    (one,), (other,) = whole["applications"], none["applications"]
    assert one["args"] == other["args"] and one["deployments"] != other["deployments"]
    assert [d["name"] for d in one["deployments"]] == [d["name"] for d in other["deployments"]]
    assert all(d["autoscaling_config"]["min_replicas"] == 0 for d in other["deployments"])


def test_engines_that_serve_llm_cannot_run_are_children_and_said_so() -> None:
    made = export(REFERENCE)
    kinds = arguments(made)["kinds"]
    assert {n for n, k in kinds.items() if "engine" in k} == {"embed-v100", "rerank-v100", "chat-lite-p100"}
    assert any("let only head" in line and "port 8000" in line for line in made.lost)
    assert any("embed-v100, rerank-v100, chat-lite-p100" in line for line in made.lost)
    assert {"bin/hold_headers.py", "bin/llamacpp_server.py"} < set(made.files)


def test_the_chain_is_there_where_all_three_tasks_are() -> None:
    chain = arguments(export(REFERENCE))["rag"]
    assert set(chain["generate"]) == {"chat", "chat-lite"} and set(chain["embed"]) == {"embed"}
    alone = export(ONE_NODE)
    assert arguments(alone)["rag"] is None and any("/v1/rag" in line for line in alone.lost)
    assert "/v1/rag" not in alone.files["router/xds/rds.yaml"]


def test_every_node_gets_its_command() -> None:
    before = export(REFERENCE).before
    started = {line.split(":")[0].removeprefix("on ") for line in before if line.startswith("on ")}
    assert started == {"head", *(n for i in planned(REFERENCE).instances for n in i.nodes)}
    start = "ray start --address 10.0.0.10:6379 --node-ip-address 10.0.1.10 "
    assert f"on a800-0: env RAY_grpc_client_keepalive_timeout_ms=5000 {start}" in "\n".join(before)


def test_a_vanished_node_is_given_up_before_what_waits_for_it_is() -> None:
    """First Ray gives up the node. Replicas wait for callers on it once and again, a second longer than SILENT_PEER
    each time: only much later Serve may give up those, or the router the kind."""
    made = export(REFERENCE)
    period, timeout = (int(SILENT_NODE[f"RAY_health_check_{key}_ms"]) for key in ("period", "timeout"))
    node = int(SILENT_NODE["RAY_health_check_failure_threshold"]) * (period + timeout) / 1000
    caller = int(SILENT_PEER["RAY_grpc_client_keepalive_timeout_ms"]) / 1000
    options = arguments(made)["kinds"]["chat-a800"]["llm_config"]["deployment_config"]
    replica = SERVE_FAILURES * options["health_check_timeout_s"]
    clusters = yaml.safe_load(made.files["router/xds/cds.yaml"])["resources"]
    (check,) = next(c["health_checks"] for c in clusters if c["name"].startswith("chat"))
    kind = float(check["timeout"].removesuffix("s")) * check["unhealthy_threshold"]
    assert node + 5 * (caller + 1) < replica and node < kind


def test_names_that_are_no_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"my\.chat"):
        export(ONE_NODE.replace("name: chat", "name: my.chat"))


@pytest.mark.live
@pytest.mark.parametrize("name", FLEETS)
def test_envoy_takes_the_router(name: str, tmp_path: Path) -> None:
    files = {path.removeprefix("router/"): text for path, text in export(FLEETS[name]).files.items()}
    config = tmp_path / "merged.yaml"
    config.write_text(merged_static(files))
    envoy = Path(sys.executable).with_name("envoy")
    argv = validate_command(inventory(FLEETS[name]).nodes[0], str(config), envoy=str(envoy))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


def write_golden() -> None:
    for name, text in GOLDEN_OF.items():
        (GOLDEN / f"{name}.yaml").write_text(export(text).files["serve.yaml"])


if __name__ == "__main__":
    write_golden()
