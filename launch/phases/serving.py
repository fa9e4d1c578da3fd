"""What `up` does otherwise where Ray Serve runs the engines."""

from __future__ import annotations

from collections.abc import Sequence

from llmfleet.launch.nodes.process import Process
from llmfleet.launch.nodes.processes import Statuses
from llmfleet.launch.ray_serve.application import kinds_planned
from llmfleet.launch.record.state import Runtime
from llmfleet.launch.session import Session
from llmfleet.planner.errors import FleetError, NodesError, StateError


def settle_runtime(session: Session, asked: Runtime | None) -> None:
    """Raises StateError where the fleet is up in another way: engines of both cannot hold the GPUs; InputError for what
    Serve cannot run."""
    state = session.store.value
    if asked not in (None, state.runtime) and state.processes:
        raise StateError(
            f"the fleet is up with --runtime {state.runtime}, and cannot become {asked} while it runs",
            hint=f"`llmfleet down`, then `llmfleet up --runtime {asked}`.",
        )
    session.asked_runtime = asked
    if session.on_ray_serve:
        kinds_planned(session)


def unchanged(ray: Sequence[Process], statuses: Statuses) -> tuple[Process, ...]:
    """The same processes. Raises NodesError for those that run with another command line: replicas would die with
    them."""
    errors: list[FleetError] = []
    for process in ray:
        status = statuses.get(process.node, {}).get(process.name)
        if status is not None and status.alive and status.digest != process.digest:
            errors.append(_to_be_emptied(process))
    if errors:
        raise NodesError("Ray has to be started anew", errors)
    return tuple(ray)


def _to_be_emptied(process: Process) -> FleetError:
    what = f"{process.name} is to run with other words, and what Serve runs on it would be cut off"
    if process.kind == "ray-head":
        return StateError(what, node=process.node, hint="`llmfleet down`, then `llmfleet up --runtime ray-serve`.")
    hint = f"`llmfleet drain {process.node}`, then `llmfleet undrain {process.node}`: requests finish first."
    return StateError(what, node=process.node, hint=hint)

