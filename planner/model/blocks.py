"""The parts that layers are made of, as weights with their sharding rules. Module names are those of checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from llmfleet.planner.model.types import Split, Weight


def matrix(
    module: str, outputs: int, inputs: int, split: Split = "none", *, bias: bool = False, kv_heads: int = 0
) -> tuple[Weight, ...]:
    """A linear layer. Its bias is cut like its outputs, and whole on every rank where the inputs are cut."""
    weight = Weight(module, (outputs, inputs), split, kv_heads, linear=True)
    if not bias:
        return (weight,)
    return weight, Weight(module, (outputs,), "none" if split == "in" else split, kv_heads, suffix="bias")


def vector(
    module: str, size: int, *, bias: bool = False, split: Split = "none", dtype: str | None = None
) -> tuple[Weight, ...]:
    """A norm's scale (and shift)."""
    weight = Weight(module, (size,), split, dtype=dtype)
    return (weight, replace(weight, suffix="bias")) if bias else (weight,)


def table(module: str, rows: int, width: int, split: Split = "vocab") -> Weight:
    return Weight(module, (rows, width), split, lookup=True)


def head(module: str, vocab: int, width: int, *, bias: bool = False) -> tuple[Weight, ...]:
    weight = Weight(module, (vocab, width), "vocab")
    return (weight, Weight(module, (vocab,), "vocab", suffix="bias")) if bias else (weight,)


def gqa(
    width: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    bias: bool = False,
    out_bias: bool = False,
    prefix: str = "self_attn.",
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    value_dim: int | None = None,
    gate: bool = False,
    no_value: bool = False,
) -> tuple[Weight, ...]:
    """Grouped-query attention. `gate`: the query projection yields a gate too. `no_value`: values are the keys."""
    q, k, v, o = (prefix + name for name in names)
    value_dim = value_dim or head_dim
    values = () if no_value else matrix(v, kv_heads * value_dim, width, "kv", bias=bias, kv_heads=kv_heads)
    return (
        *matrix(q, heads * head_dim * (2 if gate else 1), width, "out", bias=bias),
        *matrix(k, kv_heads * head_dim, width, "kv", bias=bias, kv_heads=kv_heads),
        *values,
        *matrix(o, width, heads * value_dim, "in", bias=out_bias),
    )


def feed_forward(
    width: int, inner: int, *, prefix: str = "mlp.", gated: bool = True, bias: bool = False
) -> tuple[Weight, ...]:
    gate = matrix(f"{prefix}gate_proj", inner, width, "out", bias=bias) if gated else ()
    return (
        *gate,
        *matrix(f"{prefix}up_proj", inner, width, "out", bias=bias),
        *matrix(f"{prefix}down_proj", width, inner, "in", bias=bias),
    )


def experts_of(weights: Iterable[Weight], count: int, top_k: int) -> tuple[Weight, ...]:
    """`count` experts that each hold these weights."""
    return tuple(replace(weight, experts=count, top_k=min(top_k, count)) for weight in weights)


def moe(
    width: int,
    inner: int,
    count: int,
    top_k: int,
    *,
    prefix: str = "mlp.",
    gated: bool = True,
    router: str = "gate",
    router_bias: bool = False,
) -> tuple[Weight, ...]:
    """A router, whole on every rank, and experts."""
    route = tuple(replace(w, linear=False) for w in matrix(prefix + router, count, width, bias=router_bias))
    each = feed_forward(width, inner, prefix=f"{prefix}experts.0.", gated=gated)
    return *route, *experts_of(each, count, top_k)


def mla(
    width: int,
    heads: int,
    q_rank: int,
    kv_rank: int,
    nope: int,
    rope: int,
    value: int,
    *,
    bias: bool = False,
    prefix: str = "self_attn.",
) -> tuple[Weight, ...]:
    """Multi-head latent attention: the compressing projections are whole on every rank."""
    if q_rank:
        query = (
            *matrix(f"{prefix}q_a_proj", q_rank, width, bias=bias),
            *vector(f"{prefix}q_a_layernorm", q_rank),
            *matrix(f"{prefix}q_b_proj", heads * (nope + rope), q_rank, "out"),
        )
    else:
        query = matrix(f"{prefix}q_proj", heads * (nope + rope), width, "out")
    return (
        *query,
        *matrix(f"{prefix}kv_a_proj_with_mqa", kv_rank + rope, width, bias=bias),
        *vector(f"{prefix}kv_a_layernorm", kv_rank),
        *matrix(f"{prefix}kv_b_proj", heads * (nope + value), kv_rank, "out"),
        *matrix(f"{prefix}o_proj", width, heads * value, "in", bias=bias),
    )
