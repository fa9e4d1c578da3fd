"""Container images on sites without a registry: a tar of this machine goes to nodes as weights do, and is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from llmfleet.launch.change.steps import Step
from llmfleet.launch.nodes.processes import last_line
from llmfleet.launch.phases.facts import images
from llmfleet.launch.phases.weights import bring_steps
from llmfleet.launch.session import Session
from llmfleet.planner.errors import CommandError
from llmfleet.planner.plan import Instance

LOAD_WITHIN_S = 1800.0


def image_steps(session: Session, instances: Iterable[Instance]) -> tuple[list[Step], list[Step]]:
    """What brings tars, and once all nodes have theirs, what loads them and takes them away: a node whose tar is gone
    could not serve the others. Nothing where every image is there already, or no tar is named."""
    instances = tuple(instances)
    by_tar: dict[str, dict[str, str]] = {}
    loads: list[Step] = []
    for node in sorted({i.nodes[0] for i in instances}):
        runtime = session.node(node).runtime
        if runtime.image_tar is None:
            continue
        wanted = images(runtime, [i for i in instances if i.nodes[0] == node])
        missing = [image for image in wanted if not session.facts[node].images.get(image)]
        if missing:
            target = f"{session.folders[node].root}/images/{PurePosixPath(runtime.image_tar).name}"
            by_tar.setdefault(runtime.image_tar, {})[node] = target
            loads.append(_load_step(session, node, runtime.kind, target, missing))
    copies = [step for tar, targets in sorted(by_tar.items()) for step in bring_steps(session, tar, targets, "image")]
    return copies, loads


def _load_step(session: Session, node: str, runtime: str, tar: str, missing: list[str]) -> Step:
    transport = session.transports[node]

    def lacking() -> list[str]:
        return [i for i in missing if not transport.run((runtime, "image", "inspect", "--format", "{{.Id}}", i)).ok]

    def apply() -> None:
        done = transport.run((runtime, "load", "--input", tar), timeout=LOAD_WITHIN_S)
        if not done.ok:
            what = f"the image could not be loaded from {tar}: {last_line(done)}"
            raise CommandError(what, node=node, hint=f"Was it made with `{runtime} save`? Is the disk full?")
        transport.run(("rm", "-f", "--", tar, f"{tar}.sha256.json"))
        if still := lacking():
            what = f"`image_tar` does not hold {', '.join(still)}: {last_line(done)}"
            raise CommandError(what, node=node, hint="Save the image under the name that the plan or `image:` has.")

    return Step(node, f"load image {', '.join(missing)}", needed=lambda: bool(lacking()), apply=apply)
