"""Whether what a model writes has the form that was asked for: lines as many and as long as real ones."""

import re
from typing import Any

from suan.recipes.evaluate.intervals import mean
from suan.recipes.evaluate.questions import couplets


def shape(answer: str) -> list[int]:
    """Characters between each two marks of punctuation: [5, 5, 5, 5] for a quatrain of fives."""
    return [len(part) for part in re.split(r"[\W_]+", answer.strip()) if part]


def asked_for(documents: list[dict[str, Any]], count: int) -> list[Any]:
    """Conversations whose answer has lines, `count` at most."""
    return [document["messages"] for document in documents if couplets(document)][:count]


def form_scores(asked: list[Any], answers: list[str]) -> dict[str, list[float]]:
    """`form_correct` for every answer, `line_correct` for every line that was expected: 1 or 0."""
    whole: list[float] = []
    lines: list[float] = []
    for messages, answer in zip(asked, answers, strict=True):
        expected, got = shape(messages[-1]["content"]), shape(answer)
        whole.append(float(expected == got))
        right = sum(a == b for a, b in zip(expected, got, strict=False))
        lines += [1.0] * right + [0.0] * (len(expected) - right)
    return {"form_correct": whole, "line_correct": lines}


def form_rows(scores: dict[str, list[float]], confidence: float, seed: int) -> list[dict[str, Any]]:
    """Rows of the table."""
    return [
        {"task": "written", "shots": 0, "metric": metric, **mean(values, confidence, seed)._asdict()}
        | {"documents": len(values), "chance": None}
        for metric, values in scores.items()
    ]


def write_answers(model_folder: Any, asked: list[Any], args: Any, device: str) -> list[str]:
    """What the model says to each conversation without its last message, sampled as its folder asks."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_folder).to(device).eval()
    answers = []
    for start in range(0, len(asked), args.batch_rows):
        prompts = [
            tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            for messages in asked[start : start + args.batch_rows]
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(device)
        with torch.no_grad():
            made = model.generate(**batch, max_new_tokens=args.max_new_tokens)
        answers += tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers
