"""Ray Serve LLM: an LLMConfig for each kind of instance, since all replicas of one are alike."""

from __future__ import annotations

from itertools import groupby

from llmfleet.launch.commands.vllm import DTYPES
from llmfleet.launch.router.exports.export import AFFINITY, BOUND, HEADERS, KEYS, PRIORITY, Export, Fleet
from llmfleet.launch.router.xds import Json, to_yaml
from llmfleet.planner.plan import Instance, ServicePlan

APP = "ray.serve.llm:build_openai_app"
LONGEST_ANSWER_S = 900  # replicas that are drained have so long to finish; 20 by default
NODES = "nodes and GPUs of instances: Ray puts replicas where their GPUs are free, and not of a planned kind"
MODELS = "one name for unequal instances: each kind is a model of its own, NAME@N, and clients choose"


def export(fleet: Fleet) -> Export:
    """The file of `serve deploy`, for the API of Ray 2.60."""
    configs: list[Json] = []
    dropped = [NODES, AFFINITY, BOUND, PRIORITY, KEYS, HEADERS]
    for service, pool in fleet.services:
        theirs = [member.instance for member in pool.members]
        usable = [i for i in theirs if i.engine == "vllm"]
        dropped += [f"{i.id}: Ray Serve LLM runs vLLM, not {i.engine}" for i in theirs if i.engine != "vllm"]
        kinds = [list(same) for _, same in groupby(sorted(usable, key=_kind), key=_kind)]
        configs += [_config(service, kind, n if len(kinds) > 1 else None) for n, kind in enumerate(kinds)]
        if len(kinds) > 1 and MODELS not in dropped:
            dropped.append(MODELS)
    application = {
        "name": fleet.plan.cluster,
        "import_path": APP,
        "route_prefix": "/",
        "args": {"llm_configs": configs},
    }
    options = {"host": fleet.plan.router.bind, "port": fleet.plan.router.port}
    text = to_yaml({"http_options": options, "applications": [application]})
    return Export(f"# {fleet.plan.cluster}: serve deploy THIS_FILE\n{text}", fleet.missing(*dropped, capped=True))


def _kind(instance: Instance) -> str:
    return str(sorted(_engine(instance).items()))


def _engine(instance: Instance) -> Json:
    found: Json = {
        "tensor_parallel_size": instance.tp,
        "pipeline_parallel_size": instance.pp,
        "dtype": DTYPES.get(instance.dtype, instance.dtype),
        "kv_cache_dtype": instance.kv_cache_dtype,
        "max_model_len": instance.max_model_len,
        "max_num_seqs": instance.max_num_seqs,
        "max_num_batched_tokens": instance.max_num_batched_tokens,
        "kv_cache_memory_bytes": instance.kv_cache_memory_bytes,
        "gpu_memory_utilization": instance.gpu_memory_utilization,
        "enforce_eager": instance.enforce_eager,
    }
    if instance.long_prefill_token_threshold:
        found["long_prefill_token_threshold"] = instance.long_prefill_token_threshold
    if instance.task != "generate":
        found["runner"] = "pooling"
    return found


def _config(service: ServicePlan, instances: list[Instance], number: int | None) -> Json:
    first = instances[0]
    name = service.name if number is None else f"{service.name}@{number}"
    return {
        "model_loading_config": {"model_id": name, "model_source": service.model},
        "engine_kwargs": _engine(first),
        "placement_group_config": {"bundles": [{"CPU": 1, "GPU": 1}] * (first.tp * first.pp)},
        "deployment_config": {
            "num_replicas": len(instances),
            "max_ongoing_requests": first.max_concurrency,
            "graceful_shutdown_timeout_s": LONGEST_ANSWER_S,
            "health_check_period_s": 1,
            "health_check_timeout_s": 5,
        },
    }
