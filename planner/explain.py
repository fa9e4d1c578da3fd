"""Why each instance is as it is: plain sentences with the numbers in them."""

from __future__ import annotations

from math import inf

from llmfleet.planner.candidates.build import Options
from llmfleet.planner.candidates.candidate import Candidate
from llmfleet.planner.candidates.demand import Bucket
from llmfleet.planner.candidates.engines import label
from llmfleet.planner.candidates.prune import more
from llmfleet.planner.choose.decision import Decision
from llmfleet.planner.inventory.kept import rule
from llmfleet.planner.speed.throughputs import measured_rate

NONE = Options()
PART_NAMES = {0.5: "half", 0.25: "a quarter"}
ENGINE_NAMES = ("vLLM", "llama.cpp")  # never with a capital


def instance_reason(decision: Decision, c: Candidate, threshold: int) -> str:
    """Shape, room, place, engine: in the order in which one would ask. `threshold`: of its mix of requests."""
    options = decision.options.get(c.service, NONE)
    shape = [f"{_shape(c)}, as the inventory says"] if c.demand.service.placement else _width(c, options)
    shape = _chain(c, options) if c.stages else shape
    sentences = [*shape, _measured(c), _room(c), _place(decision, c), _beside(c, threshold), _engine(c)]
    return " ".join(f"{_capital(s)}." for s in sentences if s)


def _capital(sentence: str) -> str:
    return sentence if sentence.startswith(ENGINE_NAMES) else sentence[0].upper() + sentence[1:]


def _width(c: Candidate, options: Options) -> list[str]:
    return [f"{_shape(c)}: {_speed(c)}", _narrower(c, options), _wider(c, options)]


def _chain(c: Candidate, options: Options) -> list[str]:
    """Of a pipeline over unlike nodes: who holds what."""
    layers, parts = list(c.shape.pp_partition or ()), []
    for take in c.stages:
        stages = take.nodes * int(take.slot) // c.shape.tp
        held, layers = layers[:stages], layers[stages:]
        each = f"{min(held)}" if min(held) == max(held) else f"{min(held)} to {max(held)}"
        parts.append(f"{take.nodes} × {take.node_class.name} with {each} layer{'s' * (max(held) > 1)} a stage")
    why = "no node holds" if all(o.span > 1 or o.stages for o in options.candidates) else "none of these nodes holds"
    over = f"{c.label} over nodes of {len(c.stages)} classes, as {why} the model: {', '.join(parts)}"
    return [over, _speed(c)]


def _shape(c: Candidate) -> str:
    if c.shape.gpus > 1:
        return c.label
    if c.part < 1:
        few = "" if c.demand.service.placement else ", which services share as there are too few for all"
        return f"{PART_NAMES[c.part]} of a card{few}"
    return "one slot" if c.node_class.gpu.vendor == "cpu" else "one card"


def _speed(c: Candidate) -> str:
    bucket = _usual(c)
    rating = c.ratings[bucket.name]
    rate = rating.inside.rate or rating.best_effort.rate
    kept = " inside the SLO" if _has_slo(c) and rating.inside.rate else ""
    measured = measured_rate(c.node_class.gpu, c.demand.service.model, c.shape, bucket.request)
    known = "" if measured is None else ", as measured,"
    return f"{amount(rate)} req/s{kept}{known} at {tokens(bucket.request.input_len)} tokens a prompt"


def _measured(c: Candidate) -> str:
    """How far measurements of just such an instance are from the estimate that they replace."""
    known = c.measured
    if known is None:
        return ""
    decode, prefill = (f"{factor:.2f}" for factor in (known.decode, known.prefill))
    if not c.demand.buckets[0].request.output_len:
        return f"as measured: prompts take {prefill} times what was estimated"
    return f"as measured: decode steps take {decode} times what was estimated, prompts {prefill} times"


def _usual(c: Candidate) -> Bucket:
    return max((b for b in c.demand.buckets if b.name in c.ratings), key=lambda b: b.part)


def _has_slo(c: Candidate) -> bool:
    return any(b.limits.ttft_s < inf or b.limits.tpot_s < inf for b in c.demand.buckets)


def _wider(c: Candidate, options: Options) -> str:
    """The next wider shape that was not worth it."""
    pruned = [p for p in options.pruned if p.narrow is c]
    if not pruned or pruned[0].gain is None:
        return ""
    wide, gain = pruned[0].wide, pruned[0].gain
    return f"{wide.label} would do {more(gain)} on the same GPUs{pruned[0].need()}"


def _narrower(c: Candidate, options: Options) -> str:
    """Why not fewer GPUs an instance: a rival of the same role that does less, or the widest that does not fit."""
    if c.shape.gpus == 1:
        return ""
    rivals = [
        o
        for o in options.candidates
        if o.node_class is c.node_class and o.role == c.role and o.shape.gpus < c.shape.gpus
    ]
    if rivals:
        return _against(c, rivals[-1])
    smaller = [r for r in options.rejected if r.node_class == c.node_class.name and "GiB" in r.reason]
    return f"{smaller[-1].shape.rsplit(' ', 1)[0]} does not fit: {smaller[-1].reason}" if smaller else ""


def _against(c: Candidate, narrow: Candidate) -> str:
    for bucket in c.demand.buckets:
        ours, theirs = c.ratings.get(bucket.name), narrow.ratings.get(bucket.name)
        if ours and theirs and ours.inside.rate > 0 and theirs.inside.rate <= 1e-9:
            kind = f"a {bucket.name} prompt" if bucket.name != "all" else "a prompt"
            if theirs.idle.ttft_tail_s > bucket.limits.ttft_s:
                slow, allowed = theirs.idle.ttft_tail_s, bucket.limits.ttft_s
                first = f"{narrow.label} takes {slow:.1f} s to the first token of {kind}"
                return f"{first} even idle, {allowed:.1f} s are allowed"
            return f"{narrow.label} misses the SLO on {kind} even idle"
    many, usual = c.shape.gpus // narrow.shape.gpus, _usual(c).name
    theirs_rate = many * narrow.ratings[usual].inside.rate
    if theirs_rate <= 0:
        return ""
    return f"{many} × {narrow.label} on the same GPUs do {more(theirs_rate / c.ratings[usual].inside.rate - 1)}"


def _room(c: Candidate) -> str:
    if not c.memory.kv or c.demand.service.task != "generate":
        return ""
    budget, held = c.memory.tightest, c.kv_tokens
    request = _usual(c).request
    usual = request.input_len + request.output_len
    length = c.settings.max_model_len
    many = c.memory.kv.tokens_at(usual) / usual
    room = f"{many:.0f} requests of {tokens(usual)} or {held / length:.1f} of the full {tokens(length)}"
    if c.engine.engine == "llama.cpp":
        room = f"{c.settings.max_num_seqs} slot{'s' * (c.settings.max_num_seqs > 1)} of {tokens(length)}"
    weights = f"weights take {budget.weights_gib:.1f} of {budget.total_gib:.1f} GiB{_each(c)}"
    return f"{weights} and leave {budget.kv_available_gib:.1f} for KV cache: {tokens(held)} tokens, {room}"


def _each(c: Candidate) -> str:
    return "" if c.shape.gpus == 1 else " on each GPU" if c.node_class.gpu.vendor != "cpu" else " of each slot"


def _place(decision: Decision, c: Candidate) -> str:
    """Why on this class."""
    if rule(c.demand.service) and not c.demand.service.placement:
        return f"On nodes that the inventory allows it, {rule(c.demand.service)}"
    if c.role == "long" and c.demand.over:
        return _long(decision, c)
    if c.demand.service.placement:
        return ""
    if c.service in decision.fallbacks:
        rivals = _rivals(decision, c)
        whom = "no other service runs well" if not rivals else f"{', '.join(rivals)} leave room"
        return f"fallback, on GPUs where {whom}"
    return _spared(decision, c)


def _long(decision: Decision, c: Candidate) -> str:
    limit = next(b.limits.ttft_s for b in c.demand.buckets if b.long)
    allowed = f", with {limit:.1f} s to their first token" if limit < inf else ""
    coming = f"prompts over {tokens(c.demand.over or 0)} tokens come here{allowed}"
    most = max((o.kv_tokens for o in decision.of(c.service) if o.role != "long"), default=0.0)
    if most < c.kv_tokens:
        return f"{coming}, where an instance has the most room" + (f": others hold {tokens(most)}" if most else "")
    return f"{coming}, where they stay inside the SLO" if limit < inf else coming


def _beside(c: Candidate, threshold: int) -> str:
    """Of long and short prompts in one instance."""
    if not threshold:
        return ""
    part = f"{tokens(threshold)} of the {tokens(c.settings.max_num_batched_tokens)} tokens of a step"
    why = "short ones need not wait until a long one is done"
    return f"while others are there, a prompt gets no more than {part}: {why}"


def _rivals(decision: Decision, c: Candidate) -> list[str]:
    return [name for name in decision.options if name != c.service and c.node_class.name in _classes(decision, name)]


def _spared(decision: Decision, c: Candidate) -> str:
    """A service that could run anywhere leaves the GPUs that another needs."""
    mine = _classes(decision, c.service)
    for name in decision.options:
        theirs = _classes(decision, name)
        if name != c.service and theirs and theirs < mine and c.node_class.name not in theirs:
            why = "may not run" if name in c.node_class.closed else "does not fit"
            return f"here, where {name} {why}, so that {_listed(sorted(theirs))} stay free for it"
    return ""


def _listed(names: list[str]) -> str:
    """a, b and c; of more than four the first three and how many there are beside."""
    shown, rest = (names, []) if len(names) <= 4 else (names[:3], names[3:])
    last = f"{len(rest)} more" if rest else shown[-1]
    first = shown if rest else shown[:-1]
    return f"{', '.join(first)} and {last}" if first else last


def _classes(decision: Decision, service: str) -> set[str]:
    """Where a service runs on the engine it prefers."""
    candidates = decision.options.get(service, NONE).candidates
    return {o.node_class.name for o in candidates if not o.engine.exception}


def _engine(c: Candidate) -> str:
    """Said where it is not the newest release in the precision that was asked for first."""
    engine = c.engine
    if not engine.why:
        return ""
    return f"{label(engine.engine)} {engine.version} in {engine.precision}: {engine.why}"


def amount(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def tokens(count: float) -> str:
    """3.6k, 230k: counts that never break across lines."""
    if count < 1000:
        return f"{count:.0f}"
    thousands = count / 1000
    return f"{thousands:.0f}k" if thousands >= 100 else f"{thousands:.1f}k".replace(".0k", "k")
