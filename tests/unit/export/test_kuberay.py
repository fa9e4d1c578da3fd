"""The plan under KubeRay: a valid RayService with every GPU, the rest in pods. After a change that is meant,
`python -m tests.unit.export.test_kuberay` writes the golden files."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.unit.export.exported import ONE_NODE, SPANNING, documents, export, of_kind, validate, workloads
from tests.unit.planning.fleets import EXAMPLE, LAPTOP, REFERENCE, inventory, planned

from llmfleet.launch.export.front import InRay, templates
from llmfleet.launch.export.kinds import kinds_of
from llmfleet.launch.export.kuberay import ray_kinds, serve_host
from llmfleet.launch.router.validate import merged_static, validate_command
from llmfleet.planner.errors import InputError

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_OF = {"kuberay-reference": (REFERENCE, {}), "kuberay-claim": (ONE_NODE, {"claim": "models"})}
FLEETS = {"reference": REFERENCE, "example": EXAMPLE, "one-node": ONE_NODE, "spanning": SPANNING}
IMAGE = {"ray_image": "registry.example/vllm-ray:1"}


def golden_text(text: str, options: dict[str, str]) -> str:
    return export(text, **options, **IMAGE)[2].files["ray.yaml"]


def service(made: Any) -> dict[str, Any]:
    (found,) = of_kind(made, "RayService")
    return found


def groups(made: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service(made)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return found


@pytest.mark.parametrize("name", GOLDEN_OF)
def test_reads_as_it_was_read(name: str) -> None:
    assert golden_text(*GOLDEN_OF[name]) == (GOLDEN / f"{name}.yaml").read_text()


@pytest.mark.parametrize("claim", [None, "models"])
@pytest.mark.parametrize("name", FLEETS)
def test_every_manifest_is_valid(name: str, claim: str | None) -> None:
    made = export(FLEETS[name], claim=claim, **IMAGE)[2]
    for part in documents(made):
        validate(part)
    head = service(made)["spec"]["rayClusterConfig"]["headGroupSpec"]
    for group in [head, *groups(made)]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)


def test_the_validator_bites() -> None:
    part = copy.deepcopy(service(export(REFERENCE, **IMAGE)[2]))
    part["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicsa"] = 3
    with pytest.raises(jsonschema.ValidationError, match="replicsa"):
        validate(part)


@pytest.mark.parametrize("name", FLEETS)
def test_every_instance_is_in_ray_or_in_a_pod_with_all_its_gpus(name: str) -> None:
    fleet, plan, made = export(FLEETS[name], **IMAGE)
    named = [*workloads(made), service(made)]
    ids = [i for part in named for i in part["metadata"]["annotations"]["llmfleet.io/instances"].split(",")]
    assert sorted(ids) == sorted(i.id for i in plan.instances)
    inside = plan.those(service(made)["metadata"]["annotations"]["llmfleet.io/instances"].split(","))
    wanted = {n: sum(len(i.gpus.get(n, ())) for i in inside) for i in inside for n in i.nodes}
    has = [(int(g["replicas"]), limits(g)) for g in groups(made)]
    assert sum(count for count, _ in has) == len(wanted)
    assert sum(count * gpus for count, gpus in has) >= sum(wanted.values())
    arguments = yaml.safe_load(service(made)["spec"]["serveConfigV2"])["applications"][0]["args"]["kinds"]
    bundles = [b for k in arguments.values() for b in k["llm_config"]["placement_group_config"]["bundles"]]
    brought = {key for g in groups(made) for key in json.loads(json.loads(g["rayStartParams"]["resources"]))}
    assert {key for b in bundles for key in b if key.startswith("llmfleet_class_")} <= brought
    for group in groups(made):
        image = group["template"]["spec"]["containers"][0]["image"]
        assert image in {IMAGE["ray_image"], *(n.runtime.image for n in fleet.nodes)}
        sources = {m["mountPath"] for m in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert sources & {i.weights_path for i in inside}
    for instance in inside:
        mine = [k for k in arguments.values() if fits(k["llm_config"], instance)]
        assert len(mine) == 1, instance.id


def limits(group: dict[str, Any]) -> int:
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])


def fits(config: dict[str, Any], instance: Any) -> bool:
    given = config["engine_kwargs"]
    expected = (instance.tp, instance.max_model_len, instance.max_num_seqs, instance.kv_cache_memory_bytes)
    found = (given["tensor_parallel_size"], given["max_model_len"], given["max_num_seqs"])
    return (*found, given["kv_cache_memory_bytes"]) == expected


def test_old_engines_stay_pods_and_that_is_said() -> None:
    made = export(REFERENCE, **IMAGE)[2]
    assert {w["metadata"]["name"] for w in workloads(made)} == {"embed-v100", "rerank-v100", "chat-lite-p100"}
    assert any("embed-v100, rerank-v100, chat-lite-p100" in line for line in made.lost)
    assert "Dockerfile" in made.files and made.files["Dockerfile"].startswith("# vLLM")


def test_a_fleet_that_ray_cannot_run_is_refused_with_its_engines() -> None:
    with pytest.raises(InputError, match=r"nothing of the plan runs in Ray .* llama.cpp"):
        export(LAPTOP, **IMAGE)


@pytest.mark.live
@pytest.mark.parametrize("name", FLEETS)
def test_envoy_takes_the_router(name: str, tmp_path: Path) -> None:
    fleet, plan = inventory(FLEETS[name]), planned(FLEETS[name])
    kinds = kinds_of(fleet, plan)
    inside = ray_kinds(kinds)
    files = templates(plan, [k for k in kinds if k not in inside], InRay(inside, serve_host(plan)))
    config = tmp_path / "merged.yaml"
    config.write_text(merged_static(files))
    argv = validate_command(fleet.nodes[0], str(config), envoy=str(Path(sys.executable).with_name("envoy")))
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]


def write_golden() -> None:
    for name, of in GOLDEN_OF.items():
        (GOLDEN / f"{name}.yaml").write_text(golden_text(*of))


if __name__ == "__main__":
    write_golden()
