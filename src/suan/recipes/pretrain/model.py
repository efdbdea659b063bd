"""The decoder that is trained: its configuration, its first weights, its shards, its loss.

Knows which numbers each family of transformers wants, and how its models are sharded as they are loaded.
Does not know the optimiser or the data.
"""

from pathlib import Path
from types import MethodType
from typing import Any

from suan.grid.error import Refused
from suan.recipes.pretrain.args import MIXTURES, Args, expert_width
from suan.recipes.pretrain.layout import Layout


def config_of(args: Args, folder: Path | None, tokenizer: Any) -> Any:
    """The configuration in `folder`, or one of `args`' numbers, for this tokenizer.

    Raises: Refused `bad_recipe_args` for numbers that do not divide, or a vocabulary that is too small.
    """
    if folder is None:
        _check(args)
        config = _config_from_numbers(args, tokenizer)
    else:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder)
        if config.vocab_size < len(tokenizer):
            raise Refused(
                "bad_recipe_args",
                f"the tokenizer has {len(tokenizer)} entries, vocab_size is {config.vocab_size}",
                hint="raise vocab_size in config.json, or give the model's own tokenizer",
            )
    config.bos_token_id = None
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    config.use_cache = False
    return config


def _config_from_numbers(args: Args, tokenizer: Any) -> Any:
    import transformers

    head = args.hidden_size // args.heads
    common = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "hidden_size": args.hidden_size,
        "intermediate_size": args.intermediate_size or 3 * args.hidden_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "head_dim": head,
        "max_position_embeddings": 4 * args.seq_len,
        "tie_word_embeddings": args.tied_embeddings,
    }
    routed = {"num_experts_per_tok": args.experts_per_token, "router_aux_loss_coef": args.router_aux_loss}
    width = {"intermediate_size": expert_width(args)}
    if args.family == "qwen3":
        return transformers.Qwen3Config(**common)
    if args.family == "llama":
        return transformers.LlamaConfig(**common)
    if args.family == "qwen3_moe":
        own = {
            "num_experts": args.experts,
            "moe_intermediate_size": expert_width(args),
            "norm_topk_prob": True,
        }
        return transformers.Qwen3MoeConfig(**common | routed | own)
    if args.family == "mixtral":
        return transformers.MixtralConfig(**common | routed | width | {"num_local_experts": args.experts})
    if args.family == "olmoe":
        return transformers.OlmoeConfig(**common | routed | width | {"num_experts": args.experts})
    # Attention through a latent, its rotated part half a head wide, as in DeepSeek-V2-Lite's config.json.
    latent = {
        "q_lora_rank": None,
        "kv_lora_rank": max(8, args.hidden_size // 4),
        "qk_nope_head_dim": head,
        "qk_rope_head_dim": max(2, head // 4 * 2),
        "v_head_dim": head,
        "num_key_value_heads": args.heads,
        "n_routed_experts": args.experts,
        "num_experts_per_tok": args.experts_per_token,
        "moe_intermediate_size": expert_width(args),
        "n_shared_experts": max(1, round(args.shared_expert_size / expert_width(args))),
        "first_k_dense_replace": min(1, args.layers - 1),
        "n_group": 1,
        "topk_group": 1,
    }
    del common["head_dim"]
    return transformers.DeepseekV3Config(**common | latent)


def _check(args: Args) -> None:
    mixture = args.family in MIXTURES
    for wrong, what in (
        (args.hidden_size % args.heads, "heads must divide hidden_size"),
        (args.hidden_size % (2 * args.heads), "hidden_size / heads must be even"),
        (args.heads % args.kv_heads, "kv_heads must divide heads"),
        (mixture and args.experts < 2, f"{args.family} is a mixture: it needs experts, 8 say"),
        (not mixture and args.experts, f"{args.family} is dense: it has no experts"),
        (mixture and args.experts_per_token > args.experts, "experts_per_token must not exceed experts"),
    ):
        if wrong:
            raise Refused("bad_recipe_args", what, hint="change one of the two", recipe="pretrain")


def write_first_weights(config: Any, seed: int, folder: Path) -> None:
    """Random weights as a model folder, made on the CPU: the same on every kind of machine."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def load_sharded(folder: Path, config: Any, layout: Layout, device: Any) -> Any:
    """The folder's model, each rank reading its own shards, in float32 and ready to train."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    several = layout.dp * layout.tp > 1
    distributed = DistributedConfig(
        tp_size=layout.tp, ep_size=layout.ep, fsdp_size=layout.fsdp, dp_replicate_size=layout.dp_replicate
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, distributed_config=distributed if several else None
    )
    return model.to(device) if not several else model


def prepare(model: Any, args: Args, layout: Layout) -> None:
    """Puts in what saves memory or time: recomputation, compiled blocks, a loss without whole logits."""
    model.train()
    if layout.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if args.compile:
        for block in model.model.layers:
            block.compile()  # block by block: one graph serves all layers, and shards gather between them


class Loss:
    """Mean loss of rows of tokens, in nats a token."""

    def __init__(self, model: Any, args: Args, layout: Layout, mark: int) -> None:
        self._model, self._mark = model, mark
        self._bfloat16, self._documents = args.dtype == "bfloat16", args.document_mask
        routed = hasattr(model.config, "router_aux_loss_coef") and args.router_aux_loss > 0
        self._aux_weight = args.router_aux_loss if routed else 0.0
        self._targets: Any = None
        self._chunked = args.loss == "chunked" and layout.tp == 1 and _chunks_exist()
        if self._chunked:
            # In the head's own forward: there FSDP2 has gathered its weight, and nowhere else.
            head = model.get_output_embeddings()
            head.forward = MethodType(self._head_loss, head)

    def __call__(self, rows: Any) -> tuple[Any, Any]:
        """(loss to descend, of which the language model's own) of rows x (length + 1) tokens."""
        import torch
        from torch.nn.functional import cross_entropy

        tokens, targets = rows[:, :-1], rows[:, 1:].flatten()
        keys: dict[str, Any] = {"output_router_logits": True} if self._aux_weight else {}
        if self._documents:
            keys["position_ids"] = positions(tokens, self._mark)
        self._targets = targets
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self._bfloat16):
            out = self._model(input_ids=tokens, **keys)
        own = out.logits if self._chunked else cross_entropy(out.logits.flatten(0, 1).float(), targets)
        return (own + self._aux_weight * out.aux_loss if self._aux_weight else own), own.detach()

    def _head_loss(self, head: Any, hidden: Any) -> Any:
        import torch

        hidden, weight = hidden.flatten(0, 1), head.weight
        if self._bfloat16:
            hidden, weight = hidden.bfloat16(), weight.bfloat16()
        return torch.nn.functional.linear_cross_entropy(
            hidden, weight, self._targets, options=torch.nn.LinearCrossEntropyOptions()
        ).float()


def _chunks_exist() -> bool:
    import torch

    return hasattr(torch.nn, "LinearCrossEntropyOptions")  # torch 2.13 has it, 2.11 has not


def positions(tokens: Any, mark: int) -> Any:
    """Place of each token in its document, which a mark ends. Where it falls, transformers masks what was."""
    import torch

    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    begins = torch.zeros_like(tokens)
    begins[:, 1:] = torch.where(tokens[:, :-1] == mark, index[:, 1:], 0)
    return index - begins.cummax(dim=1).values


class RouterBias:
    """Spreads tokens over the experts of DeepSeek-V3, whose router has a bias instead of a loss.

    Source: DeepSeek-V3 technical report (arXiv 2412.19437), section 2.1.2: after each step the bias of an
    expert with more than its share falls by a fixed rate, that of one with less rises. Other models: nothing.
    """

    def __init__(self, model: Any, rate: float) -> None:
        self._rate = rate
        self._routers = [module for module in model.modules() if hasattr(module, "e_score_correction_bias")]
        self._counts: list[Any] = [0] * len(self._routers)
        for index, router in enumerate(self._routers):
            router.register_forward_hook(self._counting(index))

    def _counting(self, index: int) -> Any:
        def count(router: Any, _: Any, out: Any) -> None:
            import torch

            if router.training and torch.is_grad_enabled():
                self._counts[index] += torch.bincount(out[2].flatten(), minlength=router.num_experts)

        return count

    def step(self, total: Any) -> None:
        """Moves the biases. `total` adds a tensor up over all ranks."""
        for index, router in enumerate(self._routers):
            counts = total(self._counts[index]).float()
            router.e_score_correction_bias += self._rate * (counts.mean() - counts).sign()
            self._counts[index] = 0
