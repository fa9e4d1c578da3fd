"""Manifests: valid, complete, the same every time. After a change that is meant,
`python -m tests.unit.export.test_kubernetes` writes the golden files."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.unit.export.exported import ONE_NODE, SPANNING, documents, export, of_kind, pods, validate, workloads
from tests.unit.planning.fleets import EXAMPLE, LAPTOP, REFERENCE

from llmfleet.launch.export import front
from llmfleet.launch.export.front import stand_ins, templates
from llmfleet.launch.export.kinds import kinds_of
from llmfleet.launch.export.kubernetes import kubernetes, secret
from llmfleet.launch.router.clients import ClientKey
from llmfleet.launch.router.names import served_names
from llmfleet.planner.errors import InputError
from llmfleet.planner.plan import Instance

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_OF = {"reference": (REFERENCE, {}), "one-node": (ONE_NODE, {}), "claim": (ONE_NODE, {"claim": "models"})}
FLEETS = {"reference": REFERENCE, "example": EXAMPLE, "one-node": ONE_NODE, "spanning": SPANNING}


def golden_text(text: str, options: dict[str, str]) -> str:
    """Without what is tested elsewhere (the router's configuration, scripts) and what the planner's words make long."""
    kept = []
    for part in documents(export(text, **options)[2]):
        if part["kind"] == "ConfigMap":
            part["data"] = sorted(part["data"])
        part["metadata"].get("annotations", {}).pop("llmfleet.io/reason", None) if "metadata" in part else None
        part.get("metadata", {}).get("annotations", {}).pop("llmfleet.io/plan", None)
        kept.append(part)
    return yaml.safe_dump_all(kept, sort_keys=False, width=140)


@pytest.mark.parametrize("name", GOLDEN_OF)
def test_reads_as_it_was_read(name: str) -> None:
    assert golden_text(*GOLDEN_OF[name]) == (GOLDEN / f"{name}.yaml").read_text()


def test_a_fleet_whose_names_alone_are_too_many_is_refused_before_its_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "MOST_BYTES", 100)
    monkeypatch.setattr(front, "templates", None)
    with pytest.raises(InputError, match=r"bytes or more, a ConfigMap holds 100"):
        export(REFERENCE)


@pytest.mark.parametrize("claim", [None, "models"])
@pytest.mark.parametrize("name", FLEETS)
def test_every_manifest_is_valid(name: str, claim: str | None) -> None:
    made = export(FLEETS[name], claim=claim)[2]
    for part in documents(made):
        validate(part)
        if "LeaderWorkerSet" in part["kind"]:
            for template in pods(part):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
                kubernetes_validate.validate(pod, "1.34", strict=True)
    kinds = Counter(part["kind"] for part in documents(made))
    assert kinds["Deployment"] == kinds["ServiceMonitor"] == kinds["Namespace"] == kinds["Kustomization"] == 1
    assert kinds["PodDisruptionBudget"] == kinds["StatefulSet"] + kinds["LeaderWorkerSet"] > 0
    assert not kinds["Secret"]


@pytest.mark.parametrize("kind", ["StatefulSet", "LeaderWorkerSet", "ServiceMonitor", "NetworkPolicy"])
def test_the_validator_bites(kind: str) -> None:
    part = copy.deepcopy(of_kind(export(SPANNING if kind == "LeaderWorkerSet" else REFERENCE)[2], kind)[0])
    part["spec"]["replicsa"] = 3
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(part)


@pytest.mark.parametrize("name", FLEETS)
def test_every_instance_gpu_flag_and_image_of_the_plan_is_there(name: str) -> None:
    fleet, plan, made = export(FLEETS[name])
    left = {i.id: i for i in plan.instances}
    for workload in workloads(made):
        ids = workload["metadata"]["annotations"]["llmfleet.io/instances"].split(",")
        assert workload["spec"]["replicas"] == len(ids)
        for each in ids:
            instance = left.pop(each)
            found = pods(workload)
            assert sum(int(gpus(pod)) for pod in found) == instance.tp * instance.pp
            for pod in found:
                engine = pod["spec"]["containers"][0]
                assert engine["image"] == (fleet.node(instance.nodes[0]).runtime.image or instance.image)
                assert_flags(instance, engine["args"], served_names(plan, instance))
    assert left == {}


def gpus(pod: dict[str, dict]) -> str:
    return pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]


def assert_flags(instance: Instance, args: list[str], names: tuple[str, ...]) -> None:
    given = dict(pairwise(args))
    assert given["--model"] == instance.weights_path
    if instance.engine == "llama.cpp":
        assert given["--parallel"] == str(instance.max_num_seqs)
        assert int(given["--ctx-size"]) == instance.max_num_seqs * instance.max_model_len
        assert given["--alias"] == ",".join(names)
        return
    expected = {
        "--tensor-parallel-size": instance.tp,
        "--dtype": instance.dtype,
        "--max-model-len": instance.max_model_len,
        "--max-num-seqs": instance.max_num_seqs,
        "--max-num-batched-tokens": instance.max_num_batched_tokens,
        "--gpu-memory-utilization": instance.gpu_memory_utilization,
    }
    if instance.kv_cache_memory_bytes:
        expected["--kv-cache-memory-bytes"] = instance.kv_cache_memory_bytes
    if instance.pp > 1:
        expected["--pipeline-parallel-size"] = instance.pp
    assert {flag: given.get(flag) for flag in expected} == {flag: str(value) for flag, value in expected.items()}
    at = args.index("--served-model-name")
    assert tuple(args[at + 1 : at + 1 + len(names)]) == names


def test_each_class_has_its_own_nodes() -> None:
    made = export(EXAMPLE)[2]
    products = {}
    for workload in workloads(made):
        terms = pods(workload)[0]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        products[workload["metadata"]["annotations"]["llmfleet.io/class"]] = set(
            terms["nodeSelectorTerms"][0]["matchExpressions"][0]["values"]
        )
    assert "NVIDIA-A800-SXM4-80GB" in products["a800"]
    assert "NVIDIA-H20" in products["h20"]
    assert "Tesla-V100-SXM2-32GB" in products["v100"]
    assert "Tesla-P100-PCIE-16GB" in products["p100"]
    for name, mine in products.items():
        assert not any(mine & others for other, others in products.items() if other != name)


def test_the_router_has_its_own_configuration_with_a_stand_in_for_each_instance() -> None:
    fleet, plan, made = export(EXAMPLE)
    kinds = kinds_of(fleet, plan)
    config = next(c for c in of_kind(made, "ConfigMap") if c["metadata"]["name"] == "router-config")["data"]
    names = yaml.safe_load(config["names.json"])
    assert len(names) == len(plan.instances) == len(set(names.values()))
    assert {config[path.replace("/", ".")] for path in templates(plan, kinds)} == set(templates(plan, kinds).values())
    everything = "\n".join(config.values())
    for instance, address in stand_ins(kinds).items():
        assert f"address: {address}\n" in everything
        assert names[address].startswith(f"{instance.split('-a800')[0].split('-h20')[0].split('-v100')[0][:4]}")


def test_members_keep_their_weights() -> None:
    """An instance's name in the router's files and its stand-in belong together."""
    fleet, plan, made = export(EXAMPLE)
    config = next(c for c in of_kind(made, "ConfigMap") if c["metadata"]["name"] == "router-config")["data"]
    names = yaml.safe_load(config["names.json"])
    hosts = {i.id: kind.host(n) for kind in kinds_of(fleet, plan) for n, i in enumerate(kind.instances)}
    seen = 0
    for path, text in config.items():
        if path.startswith("xds.eds."):
            for resource in yaml.safe_load(text)["resources"]:
                for member in resource["endpoints"][0]["lb_endpoints"]:
                    endpoint = member["endpoint"]
                    address = (
                        endpoint["address"].get("socket_address")
                        or (endpoint["health_check_config"]["address"]["socket_address"])
                    )
                    assert names[address["address"]] == hosts[endpoint["hostname"]]
                    seen += 1
    assert seen >= len(plan.instances)


def test_an_instance_over_several_nodes_is_a_group_without_ray() -> None:
    made = export(SPANNING)[2]
    (group,) = of_kind(made, "LeaderWorkerSet")
    leader, worker = pods(group)
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2
    args = leader["spec"]["containers"][0]["args"]
    assert args[-8:-4] == ["--nnodes", "2", "--node-rank", "0"]
    assert args[-4:] == ["--master-addr", "$(LWS_LEADER_ADDRESS)", "--master-port", "29501"]
    assert "ray" not in args
    follower = worker["spec"]["containers"][0]
    assert follower["args"][-1] == "--headless"
    assert "$(LWS_WORKER_INDEX)" in follower["args"]
    assert "readinessProbe" not in follower


def test_keys_of_clients_are_referred_to_and_never_written() -> None:
    fleet, plan, _ = export(EXAMPLE)
    guarded = fleet.model_copy(update={"router": fleet.router.model_copy(update={"keys_file": "./keys"})})
    made = kubernetes(guarded, plan)
    assert any("--print-secret" in line for line in made.before)
    config = next(c for c in of_kind(made, "ConfigMap") if c["metadata"]["name"] == "router-config")["data"]
    assert "xds.ecds.auth.yaml" not in config
    volume = of_kind(made, "Deployment")[0]["spec"]["template"]["spec"]["volumes"][1]["projected"]["sources"]
    made_by_hand = yaml.safe_load(secret(guarded, plan, [ClientKey("team-a", "sk-12345678")], namespace="llm"))
    kubernetes_validate.validate(made_by_hand, "1.34", strict=True)
    assert made_by_hand["metadata"]["name"] == volume[1]["secret"]["name"]
    assert {item["key"] for item in volume[1]["secret"]["items"]} == made_by_hand["stringData"].keys()
    assert "sk-12345678" in made_by_hand["stringData"]["xds.ecds.auth.yaml"]
    assert not any("sk-12345678" in text for text in made.files.values())
    for part in documents(made):
        validate(part)


def test_weights_from_a_claim_are_copied_once_a_node() -> None:
    (workload,) = workloads(export(ONE_NODE, claim="models")[2])
    spec = pods(workload)[0]["spec"]
    assert {"claimName": "models", "readOnly": True} in [v.get("persistentVolumeClaim") for v in spec["volumes"]]
    copying = spec["initContainers"][0]
    assert "flock" in copying["command"][2]
    mount = spec["containers"][0]["volumeMounts"][0]
    assert mount["mountPath"] == "/models/Qwen/Qwen2.5-7B-Instruct"
    assert copying["env"][1]["value"] == f"/cache/{mount['subPath']}"


def test_equal_plans_give_equal_files() -> None:
    assert export(EXAMPLE)[2] == export(EXAMPLE)[2]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which builds kustomizations, is not installed")
def test_the_kustomization_builds(tmp_path: Path) -> None:
    made = export(EXAMPLE, namespace="llm")[2]
    for name, text in made.files.items():
        (tmp_path / name).write_text(text)
    argv = ["kubectl", "kustomize", str(tmp_path)]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    built = [*yaml.safe_load_all(ran.stdout)]
    assert len(built) == len(documents(made)) - 1
    assert {part["metadata"].get("namespace") for part in built if part["kind"] != "Namespace"} == {"llm"}


def test_cpu_slots_need_a_label_and_say_so() -> None:
    text = LAPTOP.replace("engine: llama.cpp", "engine: llama.cpp\n    path: /models/tiny.gguf").replace(
        "    source: models/tiny-q4_k_m.gguf\n", ""
    )
    made = export(text)[2]
    assert any(line.startswith("kubectl label node slot-a") for line in made.before)
    assert any("CPU slot" in line for line in made.lost)
    assert all(pods(w)[0]["spec"]["nodeSelector"] for w in workloads(made))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ONE_NODE.replace("name: chat", "name: chat.v2"), '"chat.v2-n1" (no DNS label)'),
        (ONE_NODE.replace("name: chat", f"name: {'c' * 60}"), "63 characters; 51 leave room"),
        (ONE_NODE.replace("cluster: small", "cluster: my.small"), '"my.small" (no DNS label)'),
    ],
)
def test_names_that_kubernetes_does_not_take(text: str, said: str) -> None:
    with pytest.raises(InputError, match="names that Kubernetes does not take") as caught:
        export(text)
    assert said in caught.value.message


def test_an_engine_without_an_image() -> None:
    fleet, plan, _ = export(ONE_NODE)
    bare = replace(plan, instances=tuple(replace(i, image=None) for i in plan.instances))
    with pytest.raises(InputError, match="there is no image for vllm"):
        kubernetes(fleet, bare)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for golden, given in GOLDEN_OF.items():
        (GOLDEN / f"{golden}.yaml").write_text(golden_text(*given))
