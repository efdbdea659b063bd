"""The stages of a model's life as questions to the performance model.

Knows which arguments of which recipe say what is computed. Does not read models: the shape of a model that is
fine-tuned, evaluated or served is that of the task that trained it. `answers.py` answers.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from suan.estimate.cases import Recompute
from suan.grid.work import Work

_ASSUMED_VOCAB = 4096  # as recipe pretrain assumes where nobody names a tokenizer
_MLP_RATIO = 3  # intermediate over hidden size, where pretrain's arguments leave it open
# Tokens of a question and of each answer to choose from: a couplet or a benchmark's short text. Assumed.
_QUESTION_TOKENS, _CHOICES, _QUESTION_SETS = 256, 4, 2
# What transformers cannot do in a run of its own trainer: no pipeline, no context parallelism.
_NEVER = {"pp": 1, "cp": 1, "vpp": 1}
# ZeRO stages of what pretrain and sft call `sharding`; with any other word the run follows $SUAN_PLAN.
_SHARDING = {"ddp": 0, "fsdp": 3}
_LEARNT = "model"  # what rlhf calls the reward that a model gives
_PPO_PASSES = 2  # of PPO over the answers of a step; TRL's GRPO and RLOO make one
# What each method of quantise holds a weight in.
_HELD_IN = {"int8": "int8", "int4": "int4", "gguf-q8_0": "int8", "gguf-f16": "float16"}
_SIZES = {"tp": "tp_size", "ep": "ep_size", "micro_batch": "micro_rows"}  # arguments that go before any plan

Args = Mapping[str, Any]


def work_of(
    recipe: str, args: Args, trained: Args | None, tokenizer: Args | None, *, read_bytes: int = 0
) -> Work | None:
    """The question that a recipe's arguments put; None for a recipe, a model or an input that is not known.

    `trained`: the arguments of the pretrain task that the recipe's model comes from, which may be the very
    same; `tokenizer`: of that which made the model's tokenizer; `read_bytes`: of the inputs together.
    """
    if recipe == "corpus":
        return _cleaning(args, read_bytes) if read_bytes else None
    question = _QUESTIONS.get(recipe)
    if question is None or trained is None or not {"hidden_size", "layers", "heads"} <= trained.keys():
        return None
    return question(args, _shape(trained, int((tokenizer or {}).get("vocab_size", _ASSUMED_VOCAB))))


def _shape(args: Args, vocab: int) -> dict[str, int]:
    """The model that recipe pretrain builds from its arguments."""
    hidden, heads = int(args["hidden_size"]), int(args["heads"])
    head = hidden // heads
    shape = {
        "hidden": hidden,
        "layers": int(args["layers"]),
        "heads": heads,
        "kv_heads": int(args.get("kv_heads") or heads),
        "head_dim": head,
        "value_head_dim": head,
        "ffn": int(args.get("intermediate_size") or _MLP_RATIO * hidden),
        "vocab": vocab,
        "gated": 1,
        "tied": int(args.get("tied_embeddings", True)),
    }
    if not args.get("experts"):
        return shape
    width, shared = int(args.get("expert_size") or hidden), int(args.get("shared_expert_size") or 0)
    shape |= {"experts": int(args["experts"]), "top_k": int(args["experts_per_token"]), "expert_ffn": width}
    if args.get("family") == "deepseek_v3":
        rope = max(2, head // 4 * 2)
        shape |= {
            "kv_heads": heads,
            "kv_rank": max(8, hidden // 4),
            "rope_dim": rope,
            "head_dim": head + rope,
        }
        shape |= {"shared_ffn": width * max(1, round(shared / width))}
        shape |= {"dense_layers": min(1, shape["layers"] - 1)}
    return shape


def _training(args: Args, shape: dict[str, int]) -> Work:
    fixed = _NEVER | {column: int(args[name]) for column, name in _SIZES.items() if args.get(name)}
    sharding = args.get("sharding", "plan")
    if sharding in _SHARDING:
        fixed = {"tp": 1, "ep": 1, "recompute": int(Recompute.NONE)} | fixed
        fixed["zero_stage"] = _SHARDING[sharding]
    elif args.get("fsdp_size"):
        fixed["zero_stage"] = 3
    if args.get("activation_checkpointing"):
        fixed["recompute"] = int(Recompute.FULL)
    if args.get("lora_rank"):
        fixed["adapters"] = 1
    return Work(
        stage="train",
        shape=shape,
        precision=str(args.get("dtype", "bfloat16")),
        seq_len=int(args.get("seq_len") or args["max_length"]),
        global_batch=int(args["batch_rows"]),
        steps=int(args["steps"]),
        fixed=fixed,
    )


def _preferring(args: Args, shape: dict[str, int]) -> Work:
    """Both answers of each pair go through the policy, and forward through what it began with."""
    return replace(_rewarding(args, shape), references=1)


def _rewarding(args: Args, shape: dict[str, int]) -> Work:
    """A step reads the chosen and the rejected answer of each of its pairs."""
    return replace(_training(args, shape), global_batch=2 * int(args["batch_rows"]))


def _reinforcing(args: Args, shape: dict[str, int]) -> Work:
    """A step writes its answers, has them judged and learns from them. A learnt reward is taken to be of the
    policy's shape: it is trained from the same model."""
    ppo = args.get("algorithm") == "ppo"
    return replace(
        _training(args, shape),
        references=int(bool(args.get("kl")) or ppo),
        judges=int(_LEARNT in args.get("rewards", {})),
        critics=int(ppo),
        passes=_PPO_PASSES if ppo else 1,
        answers=int(args["batch_rows"]),
        answer_tokens=int(args["max_new_tokens"]),
    )


def _quantising(args: Args, shape: dict[str, int]) -> Work:
    """Rounded, then compared: both models read the documents and write for a while."""
    return Work(
        stage="quantise",
        shape=shape,
        precision=_HELD_IN[str(args["method"])],
        seq_len=int(args["max_tokens"]),
        questions=2 * int(args["documents"]),
        choices=1,
        answers=2,
        answer_tokens=int(args["speed_tokens"]),
    )


def _cleaning(args: Args, read_bytes: int) -> Work:
    one_core = {"cores": 1} if args.get("engine", "local") == "local" else {}
    return Work(stage="corpus", shape={}, precision="", read_bytes=read_bytes, fixed=one_core)


def _evaluating(args: Args, shape: dict[str, int]) -> Work:
    shots = [1 + shots for shots in args.get("shots", (0,))]
    asked = _QUESTION_SETS * int(args.get("documents", 0)) * len(shots)
    return Work(
        stage="evaluate",
        shape=shape,
        precision="bfloat16",
        seq_len=round(_QUESTION_TOKENS * sum(shots) / max(1, len(shots))),
        questions=asked,
        choices=_CHOICES,
        answers=int(args.get("generations", 0)),
        answer_tokens=int(args.get("max_new_tokens", 1)),
    )


def _serving(args: Args, shape: dict[str, int]) -> Work:
    precision = str(args.get("dtype", "auto"))
    return Work(stage="serve", shape=shape, precision="bfloat16" if precision == "auto" else precision)


_QUESTIONS: dict[str, Callable[[Args, dict[str, int]], Work]] = {
    "pretrain": _training,
    "sft": _training,
    "dpo": _preferring,
    "reward": _rewarding,
    "rlhf": _reinforcing,
    "quantise": _quantising,
    "evaluate": _evaluating,
    "serve": _serving,
}
