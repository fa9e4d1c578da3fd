"""What most decoders share: sizes, window patterns, RoPE tables, the frame around the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import head, table, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.sparse import Experts
from llmfleet.planner.model.storage import DTYPES
from llmfleet.planner.model.types import Attention, Layer, Model, Rope, Weight

MOST_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Sizes:
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool


def sizes(c: Config, *, tied: bool = False) -> Sizes:
    width = c.integer("hidden_size", "n_embd", "d_model")
    heads = c.integer("num_attention_heads", "n_head", "n_heads", most=65536)
    kv_heads = c.integer("num_key_value_heads", default=heads, most=65536)
    if heads % kv_heads:
        raise ModelError(f"{c.where}: {kv_heads} key-value heads do not divide {heads} attention heads")
    return Sizes(
        width=width,
        inner=c.integer("intermediate_size", "ffn_dim", default=4 * width),
        layers=c.integer("num_hidden_layers", "n_layer", "n_layers", most=MOST_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=c.integer("head_dim", default=_head_dim(c, width, heads)),
        vocab=c.integer("vocab_size"),
        context=c.integer("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        tied=c.flag("tie_word_embeddings", default=tied),
    )


def _head_dim(c: Config, width: int, heads: int) -> int:
    if "head_dim" not in c and width % heads:
        raise ModelError(
            f"{c.where}: {heads} attention heads do not divide hidden_size {width}, and head_dim is missing"
        )
    return max(1, width // heads)


def dtype(*sections: Config) -> str:
    """The checkpoint's dtype; bf16 where the config does not say."""
    for c in sections:
        name = c.raw.get("torch_dtype") or c.raw.get("dtype")
        if name is None:
            continue
        if not isinstance(name, str) or name.removeprefix("torch.") not in DTYPES:
            raise ModelError(f"{c.where}: torch_dtype is {name!r}; one of {', '.join(sorted(DTYPES))} is needed")
        return DTYPES[name.removeprefix("torch.")]
    return "bf16"


def layer_types(c: Config, count: int, *, pattern: int = 0, first_sliding: bool = True) -> tuple[str, ...]:
    """Kind of each layer's attention. `pattern` n: each n-th layer is full, where the config lists nothing."""
    listed = c.names("layer_types")
    if listed:
        if len(listed) != count:
            raise ModelError(f"{c.where}: layer_types names {len(listed)} layers, num_hidden_layers is {count}")
        return listed
    if not pattern:
        return ("full_attention",) * count
    sliding = "sliding_attention" if first_sliding else "full_attention"
    return tuple("full_attention" if (i + 1) % pattern == 0 else sliding for i in range(count))


def window(c: Config) -> int:
    """Sliding window of all layers, 0 where there is none or it is switched off."""
    if "sliding_window" not in c or not c.flag("use_sliding_window", default=True):
        return 0
    return c.integer("sliding_window")


def attention(s: Sizes, kind: str, span: int) -> Attention:
    return Attention(
        s.kv_heads,
        s.head_dim,
        s.head_dim,
        span if kind == "sliding_attention" else 0,
        span if kind == "chunked_attention" else 0,
    )


def rope(c: Config, s: Sizes, *, tables: int = 1, dim: int | None = None) -> tuple[Rope, ...]:
    part = c.number("partial_rotary_factor", "rope_pct", "rotary_pct", default=_rope_part(c))
    positions = _rope_positions(c, s.context)
    linear = scaling(c).get("rope_type", scaling(c).get("type")) == "linear"
    return (Rope(positions, dim or int(s.head_dim * part), tables=tables, linear=linear),)


def scaling(c: Config) -> Mapping[str, Any]:
    """How positions are scaled; of files that say it for each kind of layer, what holds for full attention."""
    found = c.raw.get("rope_scaling") or c.raw.get("rope_parameters")
    inner = found.get("full_attention") if isinstance(found, dict) else None
    return inner if isinstance(inner, dict) else found if isinstance(found, dict) else {}


def _rope_part(c: Config) -> float:
    inner = c.raw.get("rope_parameters")
    part = inner.get("partial_rotary_factor") if isinstance(inner, dict) else None
    return float(part) if isinstance(part, int | float) and part else 1.0


def _rope_positions(c: Config, context: int) -> int:
    """Rows of the table (vLLM's get_rope): of yarn the original length × factor, of linear the length × factor."""
    found = scaling(c)
    kind = found.get("rope_type") or found.get("type")
    factor = found.get("factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 < factor < 1e4:
        return context
    if kind in ("yarn", "deepseek_yarn"):
        original = found.get("original_max_position_embeddings")
        return int(original * factor) if isinstance(original, int) and 0 < original < 1 << 31 else context
    if kind in ("linear", "dynamic"):
        return int(context * factor) if kind == "linear" else context
    return context


def interned(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Equal layers as one object, so that what is computed of one serves all."""
    seen: dict[Layer, Layer] = {}
    return tuple(seen.setdefault(layer, layer) for layer in layers)


def decoder(
    name: str,
    task: Task,
    architecture: str,
    c: Config,
    s: Sizes,
    layers: Sequence[Layer],
    *,
    ropes: tuple[Rope, ...] = (),
    norm_bias: bool = False,
    first: tuple[Weight, ...] = (),
    last: tuple[Weight, ...] | None = None,
    towers: tuple[Weight, ...] = (),
    head_bias: bool = False,
    layer_prefix: str = "model.layers.",
    e: Experts | None = None,
    outer: Config | None = None,
) -> Model:
    """The usual frame: embedding, layers, final norm, head."""
    generates = task == "generate"
    tail = vector("model.norm", s.width, bias=norm_bias) if last is None else last
    if generates and not s.tied:
        tail = (*tail, *head("lm_head", s.vocab, s.width, bias=head_bias))
    return Model(
        name=name,
        task=task,
        architecture=architecture,
        layers=interned(layers),
        first=(table("model.embed_tokens", s.vocab, s.width), *first),
        last=tail,
        towers=towers,
        tied=s.tied or not generates,
        hidden_size=s.width,
        intermediate_size=s.inner,
        vocab_size=s.vocab,
        num_heads=s.heads,
        num_kv_heads=s.kv_heads,
        head_dim=s.head_dim,
        max_context=s.context,
        native_dtype=dtype(*((outer, c) if outer else (c,))),
        ropes=ropes,
        layer_prefix=layer_prefix,
        moe_intermediate=e.inner if e else 0,
        experts=e.count if e else 0,
        top_k=e.top_k if e else 0,
    )
