"""Encoders for embedding and reranking: BERT, RoBERTa, XLM-RoBERTa, ModernBERT, Nomic's. They keep no KV cache."""

from __future__ import annotations

from llmfleet.planner.errors import ModelError
from llmfleet.planner.figures import Task
from llmfleet.planner.model.blocks import gqa, matrix, table, vector
from llmfleet.planner.model.config import Config
from llmfleet.planner.model.families.common import Sizes, dtype, interned, rope, sizes
from llmfleet.planner.model.types import Layer, Model, Weight

MODERN = ("Wqkv", "Wqkv", "Wqkv", "Wo")
NOMIC = ("Wqkv", "Wqkv", "Wqkv", "out_proj")
NAMES = ("self.query", "self.key", "self.value", "output.dense")


def build(name: str, task: Task, architecture: str, c: Config) -> Model:
    s = sizes(c)
    layer = Layer((
        *gqa(s.width, s.heads, s.heads, s.head_dim, bias=True, out_bias=True, prefix="attention.", names=NAMES),
        *vector("attention.output.LayerNorm", s.width, bias=True),
        *matrix("intermediate.dense", s.inner, s.width, "out", bias=True),
        *matrix("output.dense", s.width, s.inner, "in", bias=True),
        *vector("output.LayerNorm", s.width, bias=True),
    ))  # fmt: skip
    offset = 2 if "obert" in architecture else 0  # RoBERTa's positions begin after its padding id
    return Model(
        name=name, task=task, architecture=architecture,
        layers=interned([layer] * s.layers),
        first=(
            table("embeddings.word_embeddings", s.vocab, s.width),
            table("embeddings.position_embeddings", s.context, s.width, "none"),
            table("embeddings.token_type_embeddings", c.integer("type_vocab_size", default=2), s.width, "none"),
            *vector("embeddings.LayerNorm", s.width, bias=True),
        ),
        last=_last(c, architecture, s.width), towers=(), tied=True,
        hidden_size=s.width, intermediate_size=s.inner, vocab_size=s.vocab,
        num_heads=s.heads, num_kv_heads=s.heads, head_dim=s.head_dim,
        max_context=s.context - offset, native_dtype=dtype(c),
        layer_prefix="encoder.layer.", encoder_only=True,
    )  # fmt: skip


def _last(c: Config, architecture: str, width: int) -> tuple[Weight, ...]:
    """A classifier, or the pooler that checkpoints of plain encoders carry."""
    if not architecture.endswith("ForSequenceClassification"):
        return matrix("pooler.dense", width, width, bias=True)
    labels = c.integer("num_labels", default=max(1, len(c.section("id2label").raw)))
    if architecture.startswith("Bert"):
        return *matrix("bert.pooler.dense", width, width, bias=True), *matrix("classifier", labels, width, bias=True)
    return *matrix("classifier.dense", width, width, bias=True), *matrix(
        "classifier.out_proj", labels, width, bias=True
    )


def build_modern(name: str, task: Task, architecture: str, c: Config) -> Model:
    """ModernBERT: rotary positions, gated feed-forward, windows; the first layer has no norm before it."""
    s = sizes(c)
    bias, mlp, normed = c.flag("attention_bias"), c.flag("mlp_bias"), c.flag("norm_bias")
    weights = (
        *gqa(s.width, s.heads, s.heads, s.head_dim, bias=bias, out_bias=bias, prefix="attn.", names=MODERN),
        *matrix("mlp.Wi", 2 * s.inner, s.width, "out", bias=mlp),
        *matrix("mlp.Wo", s.width, s.inner, "in", bias=mlp),
        *vector("mlp_norm", s.width, bias=normed),
    )
    layer = Layer((*weights, *vector("attn_norm", s.width, bias=normed)))
    last = vector("final_norm", s.width, bias=normed)
    if architecture.endswith("ForSequenceClassification"):
        labels = c.integer("num_labels", default=max(1, len(c.section("id2label").raw)))
        dense = matrix("head.dense", s.width, s.width, bias=c.flag("classifier_bias"))
        scores = matrix("classifier", labels, s.width, bias=True)
        last = (*last, *dense, *vector("head.norm", s.width, bias=normed), *scores)
    return _frame(
        name, task, architecture, c, s, [Layer(weights), *[layer] * (s.layers - 1)],
        (table("embeddings.tok_embeddings", s.vocab, s.width), *vector("embeddings.norm", s.width, bias=normed)), last,
        "layers.",
    )  # fmt: skip


def build_nomic(name: str, task: Task, architecture: str, c: Config) -> Model:
    """Nomic's BERT: rotary positions, no biases, a gated feed-forward."""
    if c.integer("num_experts", default=0, least=0):
        raise ModelError(f"{c.where}: num_experts: Nomic's encoders with experts are not understood")
    inner = {"intermediate_size": c.integer("n_inner")} if "n_inner" in c else {}
    s = sizes(c.filled(**inner))
    bias = c.flag("qkv_proj_bias", default=False)
    layer = Layer((
        *gqa(s.width, s.heads, s.heads, s.head_dim, bias=bias, out_bias=bias, prefix="attn.", names=NOMIC),
        *matrix("mlp.fc11", s.inner, s.width, "out"),
        *matrix("mlp.fc12", s.inner, s.width, "out"),
        *matrix("mlp.fc2", s.width, s.inner, "in"),
        *vector("norm1", s.width, bias=True),
        *vector("norm2", s.width, bias=True),
    ))  # fmt: skip
    first = (
        table("embeddings.word_embeddings", s.vocab, s.width),
        table("embeddings.token_type_embeddings", c.integer("type_vocab_size", default=2), s.width, "none"),
        *vector("emb_ln", s.width, bias=True),
    )
    return _frame(name, task, architecture, c, s, [layer] * s.layers, first, (), "encoder.layers.")


def _frame(
    name: str, task: Task, architecture: str, c: Config, s: Sizes, layers: list[Layer], first: tuple[Weight, ...],
    last: tuple[Weight, ...], prefix: str,
) -> Model:  # fmt: skip
    return Model(
        name=name, task=task, architecture=architecture, layers=interned(layers), first=first, last=last, towers=(),
        tied=True, hidden_size=s.width, intermediate_size=s.inner, vocab_size=s.vocab, num_heads=s.heads,
        num_kv_heads=s.heads, head_dim=s.head_dim, max_context=s.context, native_dtype=dtype(c), ropes=rope(c, s),
        layer_prefix=prefix, encoder_only=True,
    )  # fmt: skip
