"""What a smaller model lost and won: both models on the same text, and writing in turns, in one run.

Knows two models that share a tokenizer; not how the second was made.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

ROUNDS = 3


def batches(texts: list[str], tokenizer: Any, max_tokens: int, rows: int) -> Iterator[Any]:
    """Token ids with their mask, each text after the token that stood before documents in training."""
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    for start in range(0, len(texts), rows):
        shown = [tokenizer.pad_token + text for text in texts[start : start + rows]]
        yield tokenizer(
            shown,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=max_tokens,
            return_token_type_ids=False,
        )


def compare_batch(base: Any, small: Any, batch: Any) -> dict[str, float]:
    """Sums over the batch's tokens: nats of each model, divergence, how often both would write the same."""
    import torch

    batch = batch.to(base.device)
    with torch.no_grad():
        logits = [model(**batch).logits[:, :-1].float() for model in (base, small)]
    keep = batch["attention_mask"][:, 1:].bool()
    expected = batch["input_ids"][:, 1:][keep]
    ours, theirs = (torch.log_softmax(values[keep], dim=-1) for values in logits)
    rows = torch.arange(len(expected), device=expected.device)
    return {
        "tokens": float(len(expected)),
        "base_nats": float(-ours[rows, expected].sum()),
        "nats": float(-theirs[rows, expected].sum()),
        "same": float((ours.argmax(-1) == theirs.argmax(-1)).sum()),
        "divergence": float((ours.exp() * (ours - theirs)).sum()),
    }


def quality(sums: list[dict[str, float]]) -> dict[str, float]:
    """Perplexities, the part of next tokens on which both agree, and the mean divergence in nats a token."""
    total = {key: sum(part[key] for part in sums) for key in sums[0]}
    tokens = total["tokens"]
    return {
        "base_perplexity": math.exp(total["base_nats"] / tokens),
        "perplexity": math.exp(total["nats"] / tokens),
        "same_next_token_ratio": total["same"] / tokens,
        "divergence_nats": total["divergence"] / tokens,
        "compared_tokens": tokens,
    }


def speeds(models: dict[str, Any], tokenizer: Any, count: int) -> dict[str, float]:
    """Tokens a second of each model, one conversation at a time: the best of several turns, taken in turns
    so that a busy machine is as busy for one as for the other."""
    import torch

    start = torch.tensor([[tokenizer.pad_token_id]])
    best = dict.fromkeys(models, 0.0)
    for turn in range(ROUNDS + 1):
        for name, model in models.items():
            began_s = time.perf_counter()
            with torch.no_grad():
                model.generate(
                    start.to(model.device),
                    attention_mask=torch.ones_like(start).to(model.device),
                    do_sample=False,
                    min_new_tokens=count,
                    max_new_tokens=count,
                )
            if turn:  # the first warms up
                best[name] = max(best[name], count / (time.perf_counter() - began_s))
    return best
