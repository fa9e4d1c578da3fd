"""What stays unused and why, what the plan is short of, and what the loss of a node would mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import inf

from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Demand
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.choose.rates import SMALLEST
from llmfleet.planner.choose.shares import spread
from llmfleet.planner.inventory.gpus import parse_gpus
from llmfleet.planner.plan import Rejected, Unused
from llmfleet.planner.speed.pace import APART

CLOSE = 1e-3  # of a demand: what the optimizer may give up


def unused(decision: Decision) -> list[Unused]:
    found: list[Unused] = []
    by_node = {node: c for c in decision.classes for node in c.nodes}
    reasons: dict[str, str] = {}
    for node in decision.inventory.nodes:
        count = parse_gpus(node.gpus).count if node.gpus else 0
        if count and node.exclude:
            found.append(Unused(node.name, tuple(range(count)), "the node is excluded in the inventory"))
            continue
        faulty = tuple(i for i in node.faulty if i < count)
        if faulty:
            found.append(Unused(node.name, faulty, "faulty in the inventory"))
        left = decision.left.get(node.name, ())
        if left:
            key = f"{by_node[node.name].name} {len(left)}"
            reasons.setdefault(key, _why_left(decision, by_node[node.name].name, len(left)))
            found.append(Unused(node.name, left, reasons[key]))
    return found


def _why_left(decision: Decision, node_class: str, left: int) -> str:
    every = [c for o in decision.options.values() for c in o.candidates]
    here = [c for c in every if any(t.node_class.name == node_class for t in c.takes)]
    if not here:
        out = [f"{r.service}: {r.reason}" for r in _nearest(decision, node_class)]
        return "no service runs here: " + "; ".join(out) if out else "every service is fixed by hand to other GPUs"
    if decision.inventory.policy.objective != "goodput":
        return f"the demand is served without it, and the objective is {decision.inventory.policy.objective}"
    if all(c.stages for c in here):
        return f"{', '.join(sorted({c.service for c in here}))} has pipelines that would do no more with it"
    fitting = [c for c in here if c.slot <= left and c.span == 1]
    if not fitting:
        least = min(here, key=lambda c: c.slot)
        return f"{left} left over: {least.service} needs {least.slot} on a node"
    names = ", ".join(sorted({c.service for c in fitting}))
    return f"{names} could run here, but that would add no capacity that counts"


def _nearest(decision: Decision, node_class: str) -> Iterable[Rejected]:
    """The last rejection of each service: of the widest shape."""
    last = {r.service: r for o in decision.options.values() for r in o.rejected if r.node_class == node_class}
    return last.values()


def warnings(decision: Decision) -> list[str]:
    said: list[str] = []
    for demand in decision.demands:
        said += _short(decision, demand)
    said += _context(decision)
    return said + _apart(decision) + _redundancy(decision)


def _apart(decision: Decision) -> list[str]:
    """Measurements that the estimate was far from: one of the two may be wrong."""
    said: dict[str, None] = {}
    for c in decision.counts:
        known = c.measured
        if known is None:
            continue
        factor = known.decode if c.demand.buckets[0].request.output_len else known.prefill
        if not 1 / (1 + APART) <= factor <= 1 + APART:
            where = f"{c.service} on {c.node_class.name} ({c.label})"
            said[f"{where} was measured to take {factor:.2f} times what is estimated; the plan goes by that"] = None
    return list(said)


def _short(decision: Decision, demand: Demand) -> list[str]:
    name, counts = demand.service.name, decision.of(demand.service.name)
    if not counts:
        return [f"{name} runs nowhere: {_why_nowhere(decision, demand)}"]
    result = decision.spreads[name]
    if not result.parts:
        return [f"{name}: no instance takes all of its prompts; give it a longer context"]
    said = []
    slow = _slowest(demand, counts)
    if slow:
        said.append(slow)
    if demand.rate > result.capacity_rps:
        said.append(
            f"{name} is short: {demand.rate:.3g} req/s at the peak, {result.capacity_rps:.3g} "
            f"{'inside the SLO' if result.inside and _has_slo(demand) else 'at most'}"
        )
    elif demand.rate and result.capacity_rps * (1 - decision.inventory.policy.headroom) < demand.rate * (1 - CLOSE):
        spare = 100 * (result.capacity_rps / demand.rate - 1)
        said.append(f"{name} has {spare:.0f} % to spare at the peak, less than the headroom asked for")
    return said


def _slowest(demand: Demand, counts: Mapping[Candidate, int]) -> str:
    for bucket in demand.buckets:
        ratings = [c.ratings[bucket.name] for c in counts if bucket.name in c.ratings]
        if bucket.rate and ratings and all(r.inside.rate <= 1e-9 for r in ratings):
            best = _latency(min(r.idle.ttft_tail_s for r in ratings), min(r.idle.tpot_tail_s for r in ratings))
            limits = _latency(bucket.limits.ttft_s, bucket.limits.tpot_s)
            kind = "" if bucket.name == "all" else f" on {bucket.name} prompts"
            percentile = f"p{demand.service.slo.percentile:g}"
            return f"{demand.service.name} misses its SLO{kind} even idle: {best} at {percentile}, asked for {limits}"
    return ""


def _has_slo(demand: Demand) -> bool:
    return any(b.limits.ttft_s < inf or b.limits.tpot_s < inf for b in demand.buckets)


def _latency(ttft_s: float, tpot_s: float) -> str:
    parts = [f"TTFT {ttft_s:.2g} s"] * (ttft_s < inf) + [f"TPOT {tpot_s * 1000:.0f} ms"] * (tpot_s < inf)
    return " and ".join(parts)


def _why_nowhere(decision: Decision, demand: Demand) -> str:
    options = decision.options.get(demand.service.name)
    if options and options.candidates:
        return "others take the GPUs that could run it"
    last = {r.node_class: r for r in (options.rejected if options else ())}
    if not last and any(node.gpus for node in decision.inventory.nodes):
        return "every GPU of the inventory is faulty, or of a node that is excluded"
    if not last:
        return "the inventory has no GPUs"
    return "; ".join(f"{r.node_class}: {r.reason}" for r in last.values())


def _context(decision: Decision) -> list[str]:
    said = []
    for demand in decision.demands:
        service, most = demand.service, demand.model.max_context
        asked = max(service.context or 0, (service.long_context and service.long_context.max) or 0)
        if asked > most:
            said.append(f"{service.name}: {asked} tokens of context are asked for; {service.model} has {most}")
        if service.long_context and service.long_context.over >= most:
            over = service.long_context.over
            said.append(f"{service.name}: long_context.over {over} is beyond the {most} tokens of {service.model}")
    return said


def missing(decision: Decision, demand: Demand) -> float:
    """Requests/s that lack of the peak with its headroom, inside the SLO, or of the peak after a loss; 0 if none do."""
    counts, policy = decision.of(demand.service.name), decision.inventory.policy
    wanted = demand.rate / (1 - policy.headroom)
    found = decision.spreads[demand.service.name]
    if not counts or not found.parts or (demand.rate and not found.inside):
        return max(wanted, SMALLEST)
    if found.capacity_rps < wanted * (1 - CLOSE):
        return wanted - found.capacity_rps
    if policy.redundancy and demand.rate and (left := worst_loss(decision, demand)) < 1 - CLOSE:
        return demand.rate * (1 - left)
    return 0.0


def _redundancy(decision: Decision) -> list[str]:
    if not decision.inventory.policy.redundancy:
        return []
    said = []
    for demand in decision.demands:
        left = worst_loss(decision, demand)
        if demand.rate and left < 1:
            said.append(
                f"{demand.service.name} would serve {left:.0%} of its peak after the loss of one node".replace(
                    "%", " %"
                )
            )
    return said


def worst_loss(decision: Decision, demand: Demand) -> float:
    """Part of the peak that a service still serves when its most important node is gone; 1 at most."""
    counts = decision.of(demand.service.name)
    worst = 1.0
    for lost in set(_lost_with_a_node(decision, demand).values()):
        gone = dict(lost)
        kept = {c: n - gone.get(c, 0) for c, n in counts.items() if n > gone.get(c, 0)}
        capacity = spread(demand, kept).capacity_rps if kept else 0.0
        worst = min(worst, capacity / demand.rate if demand.rate else float(bool(kept)))
    return worst


def _lost_with_a_node(decision: Decision, demand: Demand) -> dict[str, tuple[tuple[Candidate, int], ...]]:
    """Instances that go with each node. Nodes of a class mostly lose the same."""
    lost: dict[str, Counter[Candidate]] = {}
    for placed in decision.placed:
        if placed.candidate.demand is demand:
            for node in placed.nodes:
                lost.setdefault(node, Counter())[placed.candidate] += 1
    return {node: tuple(counter.items()) for node, counter in lost.items()}
