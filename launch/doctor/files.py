"""Weights: there, or with room for them."""

from __future__ import annotations

from collections.abc import Iterator

from llmfleet.launch.change.desired import weights_path
from llmfleet.launch.doctor.result import Check, CheckResult
from llmfleet.launch.doctor.view import View

SPARE_BYTES = 1 << 30  # for logs, and so that no disk is filled to the brim
FULL_BYTES = 1 << 20  # below it an engine that is replaced would be stopped, and its successor's files not be written
GIB = 1 << 30

WEIGHTS = Check("weights", "an engine reads its weights from the node's own disk")
DISK = Check("disk", "weights are copied to the node, and logs are written there")


def weights(view: View) -> CheckResult | None:
    """Those that should be there already are."""
    paths = sorted({weights_path(i, view.folder) for i in view.instances if not i.weights_source})
    if not paths:
        return None
    missing = [p for p in paths if p not in view.facts.weights or view.facts.weights[p].kind == "none"]
    if missing:
        return WEIGHTS.fail(
            f"the weights {', '.join(missing)} are not there",
            "Put them there, or let `source:` copy them from this machine.",
        )
    bare = sorted(set(_without_config(view)))
    if bare:
        return WEIGHTS.fail(
            f"{', '.join(bare)} has no config.json", "It must be the model's own folder, as it was downloaded."
        )
    plain = sorted({f"{p}: the plan counts on {what}, these are not quantized" for p, what in _not_quantized(view)})
    if plain:
        return WEIGHTS.fail(
            "; ".join(plain),
            "An engine would load them as they are and run out of memory. Put a quantized build there (`path:`), or "
            "change `precision:` and plan again.",
        )
    return WEIGHTS.ok(", ".join(f"{p} ({view.facts.weights[p].bytes / GIB:.1f} GiB)" for p in paths))


def _without_config(view: View) -> Iterator[str]:
    for instance in view.instances:
        path = weights_path(instance, view.folder)
        found = view.facts.weights.get(path)
        on_node = instance.engine == "vllm" and not instance.weights_source
        if on_node and found and found.kind == "folder" and not found.config:
            yield path


def _not_quantized(view: View) -> Iterator[tuple[str, str]]:
    """vLLM takes the method from the model's own config.json, whatever the plan says."""
    for instance in view.instances:
        path = weights_path(instance, view.folder)
        found = view.facts.weights.get(path)
        if instance.engine == "vllm" and instance.quantization and found and found.quantized is False:
            yield path, instance.quantization


def disk(view: View) -> CheckResult | None:
    """For weights to be copied there is room; what is there already needs none."""
    found = view.facts.disks.get(view.folder.root)
    if found is None or found.free is None:
        return None
    there = {path: w.bytes for path, w in view.facts.weights.items()}
    missing = sum(max(0, size - there.get(path, 0)) for path, size in view.source_bytes.items())
    free = f"{found.free / GIB:.1f} GiB free for {view.folder.root}"
    if missing and found.free < missing + SPARE_BYTES:
        return DISK.fail(
            f"{free}, {missing / GIB:.1f} GiB of weights are to be copied there",
            "Free some, or set `runtime: {dir: …}` to a larger disk.",
        )
    if found.free < FULL_BYTES:
        return DISK.fail(f"the disk of {view.folder.root} is full", "Free some: nothing can be started there.")
    if found.free < SPARE_BYTES:
        return DISK.warn(free, "Free some: a full disk stops logs, and the state is written there.")
    return DISK.ok(free)
