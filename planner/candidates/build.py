"""All candidates of a fleet, and one reason for each that is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmfleet.planner.candidates.budgets import budget
from llmfleet.planner.candidates.candidate import Candidate, Rating, Settings, at_once, shape_label
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.candidates.engines import EngineChoice, engine_choices
from llmfleet.planner.candidates.node_classes import NodeClass
from llmfleet.planner.candidates.prune import Pruned, worthwhile
from llmfleet.planner.candidates.shapes import pipeline_shapes, tensor_shapes
from llmfleet.planner.catalog import Catalog
from llmfleet.planner.inventory.kept import rule
from llmfleet.planner.memory.settings import parse_version
from llmfleet.planner.memory.types import Memory, Shape
from llmfleet.planner.plan import Rejected, Role
from llmfleet.planner.speed.batching import batching
from llmfleet.planner.speed.estimate import steps_of
from llmfleet.planner.speed.hardware import DEFAULT_NIC_BITS_S
from llmfleet.planner.speed.throughputs import measured_rate

ANY_SHAPE = "any shape"
SMALLEST = 1e-9
MOST_CHAINED = 96  # nodes among which pipelines over unlike nodes are searched for


@dataclass(frozen=True, slots=True)
class Options:
    """What a service can be run with on the whole fleet. `pruned`: wider candidates that were or may be passed over."""

    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    pruned: tuple[Pruned, ...] = ()


def options_of(demand: Demand, classes: Iterable[NodeClass], catalog: Catalog) -> Options:
    """Shapes inside one node on every class; pipelines over nodes only when no class holds the service otherwise."""
    every = tuple(classes)
    classes = tuple(c for c in every if demand.service.name not in c.closed)
    found: list[Candidate] = []
    kept = f"the inventory keeps it off these nodes: {rule(demand.service)}"
    rejected = [_reject(demand, c, ANY_SHAPE, kept) for c in every if c not in classes]
    for node_class in classes:
        made, out = _inside_a_node(demand, node_class, catalog)
        found += made
        rejected += out
    if not found:
        for node_class in classes:
            found += _over_nodes(demand, node_class, catalog)
        found += _over_classes(demand, classes, catalog)
    worthy: list[Candidate] = []
    pruned: list[Pruned] = []
    for node_class in classes:
        worth, pointless = worthwhile(
            c for c in found if c.node_class is node_class and not c.stages and not _beside(c, found)
        )
        worthy += worth
        pruned += pointless
    worthy += [c for c in found if c.stages or _beside(c, found)]
    return Options(tuple(worthy), tuple(rejected), tuple(pruned))


def more_pipelines(
    demand: Demand, options: Options, classes: Iterable[NodeClass], idle: frozenset[str], catalog: Catalog
) -> list[Candidate]:
    """For a fleet that is short. `idle`: classes with nodes that nothing runs on.

    Smaller pipelines where there are any; where single nodes hold the model, pipelines over idle ones that do not.
    """
    open_to_it = [c for c in classes if demand.service.name not in c.closed]
    if any(c.stages for c in options.candidates):
        return _sparing(demand, open_to_it, catalog)
    held = {c.node_class.name for c in options.candidates}
    rest = [c for c in open_to_it if c.name in idle and c.name not in held]
    alike = [c for node_class in rest for c in _over_nodes(demand, node_class, catalog)]
    return alike + _over_classes(demand, rest, catalog) + _sparing(demand, rest, catalog)


def _sparing(demand: Demand, classes: Sequence[NodeClass], catalog: Catalog) -> list[Candidate]:
    if len(classes) < 2 or sum(len(c.nodes) for c in classes) > MOST_CHAINED:
        return []
    from llmfleet.planner.candidates.chains import sparing_chains

    return sparing_chains(demand, classes, catalog)


def _beside(c: Candidate, found: Iterable[Candidate]) -> bool:
    """Whether it is a pipeline for what tensor parallelism leaves of a node: no rival of what leaves it."""
    return c.shape.pp > 1 and any(o.shape.pp == 1 and o.node_class is c.node_class for o in found)


def roles_of(demand: Demand) -> tuple[Role, ...]:
    return ("main", "long") if any(b.long for b in demand.buckets) else ("main",)


def _inside_a_node(demand: Demand, node_class: NodeClass, catalog: Catalog) -> tuple[list[Candidate], list[Rejected]]:
    choices, refused = engine_choices(demand.service, demand.model, node_class, catalog)
    rejected = [] if choices else [_reject(demand, node_class, ANY_SHAPE, "; ".join(refused))]
    found: list[Candidate] = []
    for choice in choices:
        made, out = _with_engine(demand, node_class, choice)
        rejected += out
        if made:
            found = made
            break  # a precision further down the list is for what this one does not fit
    return found, rejected


def _with_engine(demand: Demand, node_class: NodeClass, engine: EngineChoice) -> tuple[list[Candidate], list[Rejected]]:
    shapes, forbidden = tensor_shapes(demand.model, node_class, engine)
    rejected = [_reject(demand, node_class, _label(shape, engine), why) for shape, why in forbidden]
    found: list[Candidate] = []
    for shape in shapes:
        if found and demand.model.task != "generate":
            break  # wider shapes of a model that one card holds only add communication
        made, out = _in_roles(demand, node_class, engine, shape, 1)
        found += made
        rejected += out
    if not found:
        return _first_pipeline(demand, node_class, engine, spans=False), rejected
    return found + _of_the_rest(demand, node_class, engine, min(c.shape.gpus for c in found)), rejected


def _of_the_rest(demand: Demand, node_class: NodeClass, engine: EngineChoice, least: int) -> list[Candidate]:
    """A pipeline for the GPUs of a node that no tensor-parallel instance can use: 3 of 7, where one GPU is faulty.

    Its first token takes longer: it is none where that never keeps the SLO.
    """
    rest = len(node_class.free) % least
    shapes = [s for s, span in pipeline_shapes(demand.model, node_class, engine) if span == 1 and s.gpus == rest]
    made = [c for shape in shapes[:1] for c in _in_roles(demand, node_class, engine, shape, 1)[0]]
    return [c for c in made if any(rating.inside.rate > SMALLEST for rating in c.ratings.values())]


def _over_nodes(demand: Demand, node_class: NodeClass, catalog: Catalog) -> list[Candidate]:
    for choice in engine_choices(demand.service, demand.model, node_class, catalog)[0]:
        found = _first_pipeline(demand, node_class, choice, spans=True)
        if found:
            return found
    return []


def _over_classes(demand: Demand, classes: Sequence[NodeClass], catalog: Catalog) -> list[Candidate]:
    if len(classes) < 2 or sum(len(c.nodes) for c in classes) > MOST_CHAINED:
        return []
    from llmfleet.planner.candidates.chains import chain_candidates

    return chain_candidates(demand, classes, catalog)


def _first_pipeline(demand: Demand, node_class: NodeClass, engine: EngineChoice, *, spans: bool) -> list[Candidate]:
    """For each role the pipeline with the fewest GPUs that holds it."""
    found: dict[Role, Candidate] = {}
    for shape, span in pipeline_shapes(demand.model, node_class, engine):
        if (span > 1) == spans and len(found) < len(roles_of(demand)):
            for made in _in_roles(demand, node_class, engine, shape, span)[0]:
                found.setdefault(made.role, made)
    return list(found.values())


def _in_roles(
    demand: Demand, node_class: NodeClass, engine: EngineChoice, shape: Shape, span: int
) -> tuple[list[Candidate], list[Rejected]]:
    found: list[Candidate] = []
    rejected: list[Rejected] = []
    for role in roles_of(demand):
        memory, settings = budget(demand, node_class, engine, shape, role)
        if memory.fits and memory.tightest.weights_gib > node_class.weights_gib:
            most = f"weights of {memory.tightest.weights_gib:.1f} GiB are more than the {node_class.weights_gib:.1f}"
            rejected.append(_reject(demand, node_class, _label(shape, engine), f"{most} that max_weights allows"))
        elif memory.fits:
            found.append(rated(demand, node_class, engine, shape, role, span, memory, settings))
        else:
            label = _label(shape, engine) + " (long pool)" * (role == "long")
            rejected.append(_reject(demand, node_class, label, memory.reason or "does not fit"))
    return found, rejected[:1] if not found else rejected


def rated(
    demand: Demand,
    node_class: NodeClass,
    engine: EngineChoice,
    shape: Shape,
    role: Role,
    span: int,
    memory: Memory,
    settings: Settings,
) -> Candidate:
    """With the rates that it reaches on each kind of request that its role takes."""
    steps = steps_of(
        demand.model,
        node_class.gpu,
        shape,
        engine.precision,
        link=node_class.link,
        nic_bits_s=(node_class.nic_bits_s or DEFAULT_NIC_BITS_S) if span > 1 else None,
        engine=engine.engine,
        chunk=settings.max_num_batched_tokens,
        version=parse_version(engine.version) if engine.engine == "vllm" else None,
        graphs=not demand.service.enforce_eager,
    )
    ratings = {}
    for bucket in demand.buckets:
        if role == "long" or not bucket.long:
            most = at_once(memory, bucket.request, settings.max_num_seqs)
            load = batching(steps, bucket.request, most, bucket.limits)
            rating = Rating(inside=load.capacity(), best_effort=load.at_best(), idle=load.idle())
            measured = measured_rate(node_class.gpu, demand.service.model, shape, bucket.request)
            ratings[bucket.name] = rating if measured is None else rating.at(measured)
    return Candidate(demand, node_class, shape, engine, memory, settings, role, span, steps, ratings)


def _label(shape: Shape, engine: EngineChoice) -> str:
    return f"{shape_label(shape)} {engine.precision}"


def _reject(demand: Demand, node_class: NodeClass, shape: str, reason: str) -> Rejected:
    return Rejected(node_class.name, demand.service.name, shape, reason)
