"""Labels scored against what the model says when there is no question.

A model prefers some labels whatever the text is: they are frequent, or they were in the last example. What
it gives a label after a content-free text is taken off what it gives after the real one.

Source: Zhao et al., Calibrate Before Use, ICML 2021 (arXiv 2102.09690), with the log-probabilities of whole
labels; the zero-shot classification of Yuan 1.0 (arXiv 2110.04725) does the same.
"""

from collections.abc import Sequence
from typing import Any


def content_free_contexts(
    task: Any, samples: Sequence[dict[str, Any]], fields: Sequence[str], stand_in: str
) -> list[str]:
    """Each sample's prompt, worked examples included, with `stand_in` for the question's own `fields`."""
    contexts = []
    for sample in samples:
        asked = task.doc_to_text(sample["doc"])
        free = task.doc_to_text({**sample["doc"], **dict.fromkeys(fields, stand_in)})
        prompt = sample["arguments"][0][0]
        assert prompt.endswith(asked), "the question is the end of the prompt"
        contexts.append(prompt.removesuffix(asked) + free)
    return contexts


def calibrated_scores(
    model: Any, task: Any, samples: Sequence[dict[str, Any]], stand_in: str
) -> list[float] | None:
    """1 or 0 a sample: whether the calibrated choice is right. None when the task names no fields.

    `task` is lm-eval's; its `metadata.content_free` names the fields of a document that hold its text.
    """
    from lm_eval.api.instance import Instance

    fields = (task.config.metadata or {}).get("content_free") or ()
    if not fields or not stand_in:
        return None
    choices = [_choices(sample) for sample in samples]
    contexts = content_free_contexts(task, samples, fields, stand_in)
    wanted = list(
        dict.fromkeys(
            (context, choice) for context, all_of in zip(contexts, choices, strict=True) for choice in all_of
        )
    )
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index)
        for index, pair in enumerate(wanted)
    ]
    prior = dict(zip(wanted, (score for score, _ in model.loglikelihood(requests)), strict=True))
    return [
        float(
            calibrated_choice(_scores(sample), [prior[context, choice] for choice in all_of]) == gold(sample)
        )
        for sample, context, all_of in zip(samples, contexts, choices, strict=True)
    ]


def calibrated_choice(scores: Sequence[float], content_free: Sequence[float]) -> int:
    """The choice that gains most over the content-free prompt; both in nats."""
    gains = [score - free for score, free in zip(scores, content_free, strict=True)]
    return gains.index(max(gains))


def gold(sample: dict[str, Any]) -> int:
    """The right choice's number."""
    return int(sample["target"])


def _choices(sample: dict[str, Any]) -> list[str]:
    return [choice for _, choice in sample["arguments"]]


def _scores(sample: dict[str, Any]) -> list[float]:
    return [float(score) for score, _ in sample["filtered_resps"]]
