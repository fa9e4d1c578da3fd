"""Weights that are brought to nodes: from this machine or a hub to one of them, and from there to the others."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from llmfleet.launch.change.desired import weights_path
from llmfleet.launch.change.steps import Step
from llmfleet.launch.models.checksums import Sums, source_bytes, source_files, source_sums
from llmfleet.launch.nodes.processes import last_line
from llmfleet.launch.pool import on_each, raise_failures
from llmfleet.launch.session import Session
from llmfleet.launch.weights.delivery import Delivery
from llmfleet.launch.weights.pins import Pin, pin_from_manifest, pin_of
from llmfleet.planner.errors import CommandError, InputError
from llmfleet.planner.plan import Instance
from llmfleet.planner.weights_source import hub_source

NOTE_EVERY_S = 5.0
SOME_MISSING = 1  # sha256sum's exit code
SUM_BYTES_PER_S = 100e6  # slowest disk that the checksum deadline allows for


def weight_steps(session: Session, instances: Iterable[Instance]) -> list[Step]:
    """One step for each node and source, however many instances share it."""
    by_source: dict[str, dict[str, str]] = {}
    for instance in instances:
        for node in instance.nodes if instance.weights_source else ():
            target = weights_path(instance, session.folders[node])
            by_source.setdefault(str(instance.weights_source), {})[node] = target
    _refuse_shared_targets(by_source)
    return [step for source, targets in sorted(by_source.items()) for step in bring_steps(session, source, targets)]


def _refuse_shared_targets(by_source: Mapping[str, Mapping[str, str]]) -> None:
    owners: dict[tuple[str, str], str] = {}
    for source, targets in by_source.items():
        for place in targets.items():
            other = owners.setdefault(place, source)
            if other != source:
                what = f"the sources {other} and {source} would both become {place[1]}"
                raise InputError(what, hint="Give one of the folders another name.", node=place[0])


def bring_steps(session: Session, source: str, targets: Mapping[str, str], what: str = "weights") -> list[Step]:
    """One step for each node of `targets`, whose values are paths there. `what` it is, for people."""
    hub = hub_source(source)
    local = None if hub else local_source(session, source)
    sums = _sums(session, local) if local else None
    bodies = _manifests(session, targets)
    pin = None
    if hub:
        found = (pin_from_manifest(body, source) for body in bodies.values())
        pin = pin_of(session.fleet.folder, source) or next((p for p in found if p), None)
        sums = pin.files if pin else None
    complete = _complete_nodes(session, source, targets, bodies, sums, pin)
    delivery = Delivery(
        session=session,
        source=source,
        hub=hub,
        local=local,
        sums=sums,
        revision=pin.revision if pin else None,
        targets={node: target for node, target in targets.items() if node not in complete},
        ready={node: target for node, target in targets.items() if node in complete},
        push=lambda node, files, target, known: push(session, node, files, target, known),
    )
    verb = "fetch" if hub else "copy"
    return [_step(session, delivery, node, target, f"{verb} {what} {PurePosixPath(target).name}")
            for node, target in targets.items()]  # fmt: skip


def _step(session: Session, delivery: Delivery, node: str, target: str, title: str) -> Step:
    def apply() -> None:
        delivery.bring(node)
        body = _manifest(delivery.source, delivery.sums or {}, delivery.revision)
        session.transports[node].put(body, _beside(target))

    return Step(node, title, needed=lambda: node in delivery.targets, apply=apply)


def _beside(target: str) -> str:
    return f"{target}.sha256.json"


def _manifest(source: str, sums: Sums, revision: str | None) -> bytes:
    if revision is not None:
        return Pin(revision, sums).manifest(source)
    return json.dumps(sums, indent=1, sort_keys=True).encode()


def _manifests(session: Session, targets: Mapping[str, str]) -> dict[str, bytes | None]:
    outcomes = on_each(list(targets), lambda node: session.transports[node].get(_beside(targets[node])))
    raise_failures("weights", outcomes)
    return {o.item: o.value for o in outcomes}


def _complete_nodes(
    session: Session, source: str, targets: Mapping[str, str], bodies: Mapping[str, bytes | None], sums: Sums | None,
    pin: Pin | None,
) -> set[str]:  # fmt: skip
    """Those that have every file in full size, and a note of ours that it was checked."""
    if sums is None:
        return set()
    body = _manifest(source, sums, pin.revision if pin else None)
    noted = [node for node in targets if bodies[node] == body]
    outcomes = on_each(noted, lambda node: _complete(session, node, targets[node], sums))
    raise_failures("weights", outcomes)
    return {o.item for o in outcomes if o.value}


def local_source(session: Session, source: str) -> Path:
    """A file, or a folder with files. Raises InputError."""
    path = Path(source).expanduser()
    path = path if path.is_absolute() else session.fleet.folder.parent / path
    if not path.exists():
        raise InputError(f"the weights {path} do not exist on this machine", hint="Mend the service's `source:`.")
    if not source_files(path):
        raise InputError(f"the folder of weights {path} is empty", hint="Mend the service's `source:`.")
    return path


def source_size(session: Session, source: str) -> int | None:
    """Bytes of it; None for a hub's that was never fetched. Raises InputError where this machine lacks it."""
    if hub_source(source) is None:
        return source_bytes(local_source(session, source))
    pin = pin_of(session.fleet.folder, source)
    return sum(size for size, _ in pin.files.values()) if pin else None


def _sums(session: Session, files: Path) -> Sums:
    try:
        return source_sums(files, session.fleet.folder / "checksums.json")
    except OSError as error:
        what = f"the weights {error.filename or files} cannot be read: {error.strerror}"
        raise InputError(what, hint=f"ls -l {files}") from None


def push(session: Session, node: str, files: Path, target: str, sums: Sums) -> None:
    """Copies from this machine what the node lacks, and has it checked there."""
    there = remote_sums(session, node, target, sums)  # a copy that was cut short is gone on with
    missing = {name: sums[name] for name in sums if there.get(name) != sums[name][1]}
    told = _Told(session, node, sum(size for size, _ in missing.values()))
    for name, (size, digest) in missing.items():
        source = files / name if name else files
        place = _join(target, name)
        session.transports[node].put_file(source, place, progress=told.file, resume=digest[:16])
        told.before += size
    verify(session, node, target, missing)


class _Told:
    """Progress in bytes over all files of a copy."""

    def __init__(self, session: Session, node: str, total: int) -> None:
        self._session, self._node, self._total = session, node, total
        self.before, self._last = 0, time.monotonic()

    def file(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= NOTE_EVERY_S:
            self._last = now
            sent = (self.before + done) >> 20
            self._session.note(f"{sent} of {self._total >> 20} MiB from this machine", node=self._node)


def _join(target: str, name: str) -> str:
    return f"{target}/{name}" if name else target


def _complete(session: Session, node: str, target: str, sums: Sums) -> bool:
    """Whether every file is there in its full size."""
    paths = [_join(target, name) for name in sums]
    answer = session.transports[node].run(("stat", "-L", "-c", "%s", "--", *paths))
    expected = [str(size) for size, _ in sums.values()]
    return answer.ok and answer.stdout.split()[-len(expected) :] == expected


def remote_sums(session: Session, node: str, target: str, sums: Sums) -> Mapping[str, str]:
    """sha256 of those of the files that are on the node, by name. Raises CommandError where they cannot be summed."""
    names = {_join(target, name): name for name in sums}
    if not names:
        return {}
    total = sum(size for size, _ in sums.values())
    answer = session.transports[node].run(("sha256sum", "--", *names), timeout=60 + total / SUM_BYTES_PER_S)
    if answer.exit_code not in (0, SOME_MISSING):
        raise CommandError(f"the weights there could not be checked: {last_line(answer)}", node=node)
    found = (line.partition("  ") for line in answer.stdout.splitlines())
    return {names[path]: digest for digest, _, path in found if path in names}


def verify(session: Session, node: str, target: str, sums: Sums) -> None:
    """Raises CommandError naming the files whose copies differ; those are taken away, so that they are copied anew."""
    there = remote_sums(session, node, target, sums)
    wrong = [_join(target, name) for name, (_, digest) in sums.items() if there.get(name) != digest]
    if wrong:
        session.transports[node].run(("rm", "-f", "--", *wrong))
        raise CommandError(
            f"the copy of {', '.join(wrong[:3])} differs from its source",
            node=node,
            hint="Run `llmfleet up` again; see the disk's health if it happens twice.",
        )
