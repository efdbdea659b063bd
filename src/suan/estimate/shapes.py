"""What a shape of model amounts to: parameters by part and floating-point operations a token.

Knows the algebra of transformers: grouped and latent attention, gated feed-forwards, experts, towers. Does
not know devices, plans or time.
"""

from dataclasses import dataclass

import numpy as np

from suan.estimate.cases import Bools, Floats, Ints, Kind, Shapes

# What a shape may lack in published rows, and what stands in for it. Sources: the models' own configs.
ASPECT = 128.0  # hidden / layers of a decoder given by its size alone (GPT-3 175B: 128, Llama-3 8B: 128)
ROUTED_ASPECT = (
    64.0  # of a mixture, by its active parameters (Qwen3 30B and 235B: 43, gpt-oss: 80, DeepSeek-V3: 117)
)
UNKNOWN_PARAMS = 7e9  # of a model nobody says anything of
ACTIVE_RATIO = 0.1  # active / all parameters of a mixture (Qwen3 0.10, DeepSeek-V3 0.055, Nemotron-3 0.10)
GATED_FFN = 8.0 / 3.0  # ffn / hidden of a gated feed-forward beside full attention (Llama 1 and 2)
GROUPED_FFN = 3.5  # the same beside grouped attention (Llama-2 70B, Llama 3, Mistral)
PLAIN_FFN = 4.0  # two matrices (GPT-2, GPT-3, OPT, BLOOM)
VOCAB = 50_000.0
EXPERTS, TOP_K = 128, 8  # of a mixture given by its sizes alone (Qwen3, gpt-oss)
# Latent attention as DeepSeek-V2, V3 and Kimi-K2 have it. Source: their config.json
LATENT = {"head_dim": 192, "value_head_dim": 128, "query_rank": 1536, "kv_rank": 512, "rope_dim": 64}
LATENT_EXPERTS = 64  # no mixture this wide keeps all its key and value heads but the latent ones


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters by part, a case each. `_layer` is one layer's; a part a model has not is 0."""

    attention_layer: Floats
    ffn_layer: Floats  # dense feed-forward of one dense layer
    expert: Floats  # one routed expert
    shared_layer: Floats
    router_layer: Floats
    norm_layer: Floats
    moe_layers: Floats  # how many layers route
    dense_layers: Floats
    input_embedding: Floats
    output_embedding: Floats  # 0 where tied
    tower: Floats

    @property
    def body(self) -> Floats:
        """Everything between the embeddings, all experts counted."""
        moe = self.moe_layers
        layers = moe + self.dense_layers
        return (
            layers * (self.attention_layer + self.norm_layer)
            + self.dense_layers * self.ffn_layer
            + moe * (self.router_layer + self.shared_layer)
            + self.expert_params
        )

    @property
    def total(self) -> Floats:
        """Every parameter once."""
        return self.body + self.input_embedding + self.output_embedding + self.tower

    expert_count: Floats  # routed experts a layer

    @property
    def expert_params(self) -> Floats:
        """All routed experts."""
        return self.moe_layers * self.expert_count * self.expert


def matrices_per_ffn(shapes: Shapes) -> Floats:
    """3 for a gated feed-forward, 2 for a plain one."""
    return np.asarray(2.0 + shapes.gated, dtype=np.float64)


def attention_widths(shapes: Shapes) -> tuple[Floats, Floats, Floats]:
    """Width of all query heads, of all key heads as scored, of all value heads as summed."""
    heads = shapes.heads.astype(np.float64)
    return heads * shapes.head_dim, heads * shapes.head_dim, heads * shapes.value_head_dim


def attention_params(shapes: Shapes) -> Floats:
    """Parameters of one layer's attention."""
    hidden = shapes.hidden.astype(np.float64)
    heads, groups = shapes.heads.astype(np.float64), shapes.kv_heads.astype(np.float64)
    query_width, _, value_width = attention_widths(shapes)
    ordinary = hidden * query_width + hidden * groups * (shapes.head_dim + shapes.value_head_dim)
    rank, latent_width = shapes.query_rank.astype(np.float64), shapes.kv_rank.astype(np.float64)
    query = np.where(rank > 0, rank * (hidden + query_width), hidden * query_width)
    plain_dim = shapes.head_dim - shapes.rope_dim
    latent = (
        query
        + hidden * (latent_width + shapes.rope_dim)
        + latent_width * heads * (plain_dim + shapes.value_head_dim)
    )
    return np.where(latent_width > 0, latent, ordinary) + value_width * hidden


def parameters(shapes: Shapes) -> Parameters:
    """Parameters by part."""
    hidden = shapes.hidden.astype(np.float64)
    layers = shapes.layers.astype(np.float64)
    per_width = matrices_per_ffn(shapes) * hidden
    routed = shapes.experts > 0
    moe_layers = np.where(routed, layers - shapes.dense_layers, 0.0)
    embedding = shapes.vocab * hidden
    return Parameters(
        attention_layer=attention_params(shapes),
        ffn_layer=per_width * shapes.ffn,
        expert=np.where(routed, per_width * shapes.expert_ffn, 0.0),
        shared_layer=np.where(routed, per_width * shapes.shared_ffn, 0.0),
        router_layer=hidden * shapes.experts,
        norm_layer=2.0 * hidden,
        moe_layers=moe_layers,
        dense_layers=layers - moe_layers,
        input_embedding=embedding,
        output_embedding=np.where(shapes.tied > 0, 0.0, embedding),
        tower=shapes.tower_params,
        expert_count=shapes.experts.astype(np.float64),
    )


def active(shapes: Shapes) -> Floats:
    """Parameters a token passes."""
    parts = parameters(shapes)
    idle = parts.moe_layers * parts.expert * (shapes.experts - shapes.top_k)
    return parts.total - np.where(shapes.experts > 0, idle, 0.0)


def counted(shapes: Shapes) -> Shapes:
    """The same shapes with `params` and `active_params` counted where they are 0."""
    total, passed = parameters(shapes).total, active(shapes)
    return shapes.with_columns(
        params=np.where(shapes.params > 0, shapes.params, total),
        active_params=np.where(shapes.active_params > 0, shapes.active_params, passed),
    )


def context_seen(shapes: Shapes, seq_len: Ints | Floats) -> Floats:
    """Tokens a token attends to, on average over positions and layers; half of the sequence where causal."""
    length = np.asarray(seq_len, dtype=np.float64)
    seen = np.where(shapes.causal > 0, (length + 1.0) / 2.0, length)
    window = np.minimum(np.where(shapes.window > 0, shapes.window, length), length).astype(np.float64)
    # The first `window` positions see half a window on average, the others all of it.
    narrow = np.where(shapes.causal > 0, window * (1.0 - window / (2.0 * length)), window)
    part = shapes.window_layers / np.maximum(shapes.layers, 1)
    return seen * (1.0 - part) + narrow * part


CONVENTIONS = {
    "causal": "multiply-adds that are needed: attention of a causal model over the half it sees",
    "full_attention": "attention over the whole sequence as if nothing were masked (Megatron-LM, PaLM, MPT)",
    "six_n": "6 x active parameters, embeddings counted, attention not (Kaplan et al. 2020, with embeddings)",
    "six_n_body": "6 x active parameters without embeddings",
}


def forward_flops_per_token(shapes: Shapes, seq_len: Ints, *, convention: str = "causal") -> Floats:
    """FLOPs of a forward pass a token, logits included, by one of CONVENTIONS."""
    parts = parameters(shapes)
    passed = active(shapes) - parts.tower
    body = passed - parts.input_embedding - parts.output_embedding
    if convention == "six_n":
        return 2.0 * shapes.active_params
    if convention == "six_n_body":
        return 2.0 * body
    assert convention in CONVENTIONS, convention
    seen = context_seen(shapes, seq_len) if convention == "causal" else seq_len.astype(np.float64)
    scored, summed = attention_widths(shapes)[1:]
    attention = shapes.layers * 2.0 * seen * (scored + summed)
    matrices = body - (parts.moe_layers + parts.dense_layers) * parts.norm_layer
    tower = 2.0 * parts.tower * shapes.tower_tokens / np.maximum(seq_len, 1)
    return 2.0 * (matrices + shapes.vocab * shapes.hidden.astype(np.float64)) + attention + tower


def train_flops_per_token(shapes: Shapes, seq_len: Ints, *, convention: str = "causal") -> Floats:
    """FLOPs of forward and backward a token: three times the forward ones, recompute not counted."""
    return 3.0 * forward_flops_per_token(shapes, seq_len, convention=convention)


def completed(shapes: Shapes) -> Shapes:
    """Shapes with what they lack (0, or -1 for `shared_ffn` and `gated`) filled in from the rest.

    A published row often leaves out part of a config; its size, where given, decides what is left open.
    """
    layers, hidden = _depth_and_width(shapes)
    gated = np.where(shapes.gated < 0, 1, shapes.gated)
    heads = np.where(shapes.heads > 0, shapes.heads, np.maximum(hidden // 128, 1))
    kv_heads = np.where(shapes.kv_heads > 0, shapes.kv_heads, heads)
    routed = (shapes.experts > 0) | (shapes.kind_code == Kind.MOE)
    sizes_only = routed & (shapes.experts == 0)
    ratio = np.where(kv_heads < heads, GROUPED_FFN, GATED_FFN)
    usual = np.where(gated > 0, np.ceil(ratio * hidden / 256) * 256, PLAIN_FFN * hidden)
    draft = shapes.with_columns(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        gated=gated,
        ffn=np.where(shapes.ffn > 0, shapes.ffn, usual),
        vocab=np.where(shapes.vocab > 0, shapes.vocab, VOCAB),
        experts=np.where(sizes_only, EXPERTS, shapes.experts),
        top_k=np.where(routed, np.where(shapes.top_k > 0, shapes.top_k, TOP_K), 0),
    )
    draft = _with_heads(draft, may_be_latent=routed & ~sizes_only)
    draft = _with_experts(draft, sizes_only, unknown_shared=shapes.shared_ffn < 0)
    draft = _with_vocab(draft, unknown=(shapes.vocab == 0) & (shapes.ffn > 0))
    whole = (shapes.layers > 0) & (shapes.hidden > 0) & (shapes.ffn > 0) & (shapes.vocab > 0) & ~sizes_only
    keep = ~whole
    return counted(
        draft.with_columns(
            params=np.where(keep, draft.params, 0.0), active_params=np.where(keep, draft.active_params, 0.0)
        )
    )


def _depth_and_width(shapes: Shapes) -> tuple[Ints, Ints]:
    """Layers and hidden width, from the parameters a token passes where they are not given."""
    size = np.where(shapes.active_params > 0, shapes.active_params, shapes.params)
    routed = (shapes.experts > 0) | (shapes.kind_code == Kind.MOE)
    size = np.where(routed & (shapes.active_params == 0), shapes.params * ACTIVE_RATIO, size)
    size = np.where(size > 0, size, UNKNOWN_PARAMS)
    aspect = np.where(routed, ROUTED_ASPECT, ASPECT)
    width = np.maximum(np.round((size * aspect / 12.0) ** (1.0 / 3.0) / 128.0), 1.0) * 128.0
    hidden = np.where(shapes.hidden > 0, shapes.hidden, width).astype(np.int64)
    depth = np.maximum(np.round(size / (12.0 * hidden.astype(np.float64) ** 2)), 1.0)
    return np.where(shapes.layers > 0, shapes.layers, depth).astype(np.int64), hidden


def _with_heads(shapes: Shapes, *, may_be_latent: Bools) -> Shapes:
    """Head widths where they are not given: hidden / heads, unless the size of the model says otherwise."""
    plain = shapes.hidden // np.maximum(shapes.heads, 1)
    latent = (
        may_be_latent
        & (shapes.experts >= LATENT_EXPERTS)
        & (shapes.kv_heads == shapes.heads)
        & (shapes.shared_ffn != 0)
    )
    latent &= shapes.head_dim == 0
    odd = (plain % 8 != 0) & (shapes.head_dim == 0) & (shapes.kv_heads < shapes.heads)
    known = shapes.with_columns(head_dim=plain, value_head_dim=plain)
    miss = np.abs(parameters(known).total / np.maximum(shapes.params, 1.0) - 1.0)
    best, chosen = miss, plain
    for width in (64, 80, 96, 128, 192, 256):
        other = parameters(shapes.with_columns(head_dim=width, value_head_dim=width)).total
        error = np.abs(other / np.maximum(shapes.params, 1.0) - 1.0)
        # A size rounded to two digits decides nothing: another width must explain a percent, and nearly all
        # of it.
        better = (shapes.params > 0) & (error < best) & (error < 0.1 * miss) & (odd | (miss > 0.01))
        best, chosen = np.where(better, error, best), np.where(better, width, chosen)
    chosen = np.where(odd & (shapes.params <= 0), 64 * np.maximum(np.round(plain / 64), 1), chosen)
    chosen = np.where(shapes.head_dim > 0, shapes.head_dim, chosen)
    value = np.where(shapes.value_head_dim > 0, shapes.value_head_dim, chosen)
    ordinary = {"head_dim": chosen, "value_head_dim": value}
    return shapes.with_columns(
        **{
            name: np.where(latent, number, ordinary.get(name, getattr(shapes, name)))
            for name, number in LATENT.items()
        }
    )


def _with_experts(shapes: Shapes, sizes_only: Bools, *, unknown_shared: Bools) -> Shapes:
    """Experts' widths and leading dense layers where they are not given."""
    routed = shapes.experts > 0
    per_width = matrices_per_ffn(shapes) * shapes.hidden
    given = shapes.expert_ffn > 0
    fine_grained = shapes.experts >= LATENT_EXPERTS
    # Of sizes alone: what is not active is the experts a token does not pass.
    idle = np.maximum(shapes.params - shapes.active_params, 0.0)
    from_sizes = idle / (per_width * np.maximum(shapes.layers * (shapes.experts - shapes.top_k), 1))
    from_size = np.maximum(
        shapes.params / np.maximum(shapes.layers * per_width * np.maximum(shapes.experts, 1), 1), 1
    )
    width = np.where(
        given,
        shapes.expert_ffn,
        np.where(
            sizes_only & (shapes.active_params > 0),
            from_sizes,
            np.where(
                fine_grained & ((shapes.params > 0) | sizes_only),
                np.minimum(shapes.ffn, np.maximum(from_size, 256)),
                shapes.ffn,
            ),
        ),
    )
    shared = np.where(unknown_shared, np.where(fine_grained & ~sizes_only, 2 * width, 0), shapes.shared_ffn)
    shared = np.where(sizes_only, 0, shared)
    draft = shapes.with_columns(
        expert_ffn=np.where(routed, width, 0), shared_ffn=np.where(routed, np.maximum(shared, 0), 0)
    )
    parts = parameters(draft)
    excess = parts.total - shapes.params
    a_layer = shapes.experts * parts.expert + parts.shared_layer + parts.router_layer - parts.ffn_layer
    leading = np.floor(excess / np.maximum(a_layer, 1.0) + 0.5)
    open_ = routed & given & (shapes.dense_layers == 0) & (shapes.params > 0) & (a_layer > 0)
    leading = np.where(open_, np.clip(leading, 0, 0.1 * shapes.layers), shapes.dense_layers)
    return draft.with_columns(dense_layers=leading)


def _with_vocab(shapes: Shapes, *, unknown: Bools) -> Shapes:
    """The vocabulary, where it alone is not given: what the size leaves for embeddings, within reason."""
    parts = parameters(shapes)
    rest = shapes.params - parts.body - parts.tower
    solved = rest / (np.where(shapes.tied > 0, 1.0, 2.0) * shapes.hidden)
    decided = unknown & (shapes.params > 0)
    return shapes.with_columns(vocab=np.where(decided, np.clip(solved, 32_000, 262_144), shapes.vocab))
