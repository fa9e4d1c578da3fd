"""Mixtures of experts: which layers have them, and their weights."""

from __future__ import annotations

from dataclasses import dataclass

from llmfleet.planner.errors import ModelError
from llmfleet.planner.model.blocks import experts_of, feed_forward, matrix, moe, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.types import Weight

MOST_EXPERTS = 1 << 16
TOP_K = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts", "moe_topk")


@dataclass(frozen=True, slots=True)
class Experts:
    """`shared`: inner width of the experts that see every token; 0: none. `correction`: a bias for balanced routing."""

    count: int
    top_k: int
    inner: int
    shared: int = 0
    shared_name: str = "shared_experts"
    shared_gate: bool = False
    correction: bool = False
    prefix: str = "mlp."
    router: str = "gate"
    gated: bool = True
    latent: int = 0  # experts work on a projection this wide


def experts(
    c: Config,
    *,
    shared_name: str = "shared_experts",
    correction: bool = False,
    prefix: str = "mlp.",
    router: str = "gate",
) -> Experts:
    """By the keys that most families use."""
    inner = c.integer("moe_intermediate_size", "intermediate_size")
    return Experts(
        count=c.integer("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", most=MOST_EXPERTS),
        top_k=c.integer(*TOP_K, most=MOST_EXPERTS),
        inner=inner,
        shared=shared_width(c, inner),
        shared_name=shared_name,
        correction=correction,
        prefix=prefix,
        router=router,
    )  # fmt: skip


def shared_width(c: Config, inner: int) -> int:
    for key in ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim"):
        if key in c:
            return c.integer(key, least=0)
    return inner * c.integer("n_shared_experts", "num_shared_experts", default=0, least=0)


def expert_weights(width: int, e: Experts) -> tuple[Weight, ...]:
    """Router, experts and shared experts of one layer."""
    stem = f"{e.prefix}{e.shared_name}."
    return (
        *moe(e.latent or width, e.inner, e.count, e.top_k, prefix=e.prefix, gated=e.gated, router="")[1:],
        *_router(width, e),
        *(feed_forward(width, e.shared, prefix=stem, gated=e.gated) if e.shared else ()),
        *(_plain(matrix(f"{e.prefix}{e.shared_name}_gate", 1, width)) if e.shared_gate and e.shared else ()),
    )


def _router(width: int, e: Experts) -> tuple[Weight, ...]:
    name = e.prefix + e.router
    bias = vector(f"{name}.e_score_correction_bias", e.count, dtype="fp32") if e.correction else ()
    return *_plain(matrix(name, e.count, width)), *bias


def _plain(weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
    """Small matrices that quantizers leave alone."""
    return tuple(Weight(w.module, w.shape, w.split, suffix=w.suffix) for w in weights)


def stacked_experts(
    prefix: str, e: Experts, width: int, *, fused: str = "gate_up_proj", down: str = "down_proj", bias: bool = False
) -> tuple[Weight, ...]:
    """Experts that a checkpoint keeps in one tensor a kind."""
    up = matrix(f"{prefix}{fused}", 2 * e.inner, width, "out", bias=bias)
    return experts_of((*up, *matrix(f"{prefix}{down}", width, e.inner, "in", bias=bias)), e.count, e.top_k)


def sparse_layers(c: Config, count: int) -> tuple[bool, ...]:
    """Whether each layer has experts."""
    kinds = c.names("mlp_layer_types")
    freq = c.raw.get("moe_layer_freq")
    if kinds:
        return _checked(c, tuple(kind == "sparse" for kind in kinds), count)
    if isinstance(freq, list):
        return _checked(c, tuple(bool(on) for on in c.integers("moe_layer_freq")), count)
    dense = c.integer("first_k_dense_replace", default=0, least=0)
    every = c.integer("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", default=1)
    only_dense = set(c.integers("mlp_only_layers"))
    if dense:
        return tuple(i >= dense and i % every == 0 for i in range(count))
    return tuple((i + 1) % every == 0 and i not in only_dense for i in range(count))


def _checked(c: Config, layers: tuple[bool, ...], count: int) -> tuple[bool, ...]:
    if len(layers) != count:
        raise ModelError(
            f"{c.where}: the list of sparse layers has {len(layers)} entries, num_hidden_layers is {count}"
        )
    return layers
