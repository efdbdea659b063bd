"""The reward that a model learnt from preferences, as a scorer.

Knows how to run a reward model folder (one label, chat template) over answers. Its scores are in standard
deviations from the mean of the held-out answers it was measured on, so that they can be weighed against
rewards between 0 and 1. Does not train.
"""

from collections.abc import Sequence
from pathlib import Path

from suan.grid.error import Refused
from suan.recipes.rewards import Row, Scorer

LIMIT = 3.0  # standard deviations: beyond what it was measured on a reward model knows nothing
BATCH_ROWS = 64


def learnt_scorer(folder: Path, device: str, *, limit: float = LIMIT) -> Scorer:
    """A scorer from a reward model folder; scores beyond `limit` count as `limit`.

    Raises: Refused `no_reward_model`.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not (folder / "config.json").exists():
        raise Refused(
            "no_reward_model",
            f"{folder} has no config.json",
            hint="give a folder that the reward stage wrote",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    if model.config.num_labels != 1:
        raise Refused(
            "no_reward_model",
            f"{folder} has {model.config.num_labels} labels, and a reward is one number",
            hint="give a folder that the reward stage wrote",
        )
    mean = float(getattr(model.config, "reward_mean", 0.0))
    deviation = float(getattr(model.config, "reward_deviation", 1.0))

    def score(rows: Sequence[Row], answers: Sequence[str]) -> list[float]:
        texts = [
            tokenizer.apply_chat_template(
                [*row["prompt"], {"role": "assistant", "content": answer}], tokenize=False
            )
            for row, answer in zip(rows, answers, strict=True)
        ]
        found: list[float] = []
        for start in range(0, len(texts), BATCH_ROWS):
            batch = tokenizer(
                texts[start : start + BATCH_ROWS],
                return_tensors="pt",
                padding=True,
                padding_side="right",
                add_special_tokens=False,
                return_token_type_ids=False,
            ).to(device)
            with torch.inference_mode():
                found += model(**batch).logits[:, 0].float().tolist()
        return [max(-limit, min(limit, (value - mean) / deviation)) for value in found]

    return score
