"""From passages to an answer with its sources: a prompt for a model that can read, or a quotation.

Knows text. A model of a few million parameters does not read what it is shown; for such a one, and wherever
an answer must be somebody's own words, the best sentences are quoted.
"""

from typing import Any

from suan.recipes.index.passages import sentences
from suan.recipes.index.store import Passage

NOTHING = "没有找到可以回答的资料。 Nothing was found that answers this."
_INSTRUCTION = (
    "根据下面的资料回答；资料里没有的，就说不知道；在句末用[编号]注明出处。\n"
    "Answer from these passages alone, say so when they do not tell, and cite them as [number].\n\n"
)


def with_passages(messages: list[dict[str, Any]], found: list[Passage]) -> list[dict[str, Any]]:
    """The conversation after a system message that shows the passages, numbered."""
    shown = "\n".join(
        f"[{number}] {passage.text} ({passage.source}{', ' + passage.date if passage.date else ''})"
        for number, passage in enumerate(found, 1)
    )
    return [{"role": "system", "content": _INSTRUCTION + shown}, *messages]


def quote(question: str, found: list[Passage], embedder: Any) -> tuple[str, Passage] | None:
    """The two neighbouring sentences nearest to the question by meaning and by shared pairs of characters,
    with their passage. Two: the first often names what the second tells of."""
    pairs = [
        ("".join(parts[at : at + 2]), passage)
        for passage in found
        if (parts := sentences(passage.text))
        for at in range(max(1, len(parts) - 1))
    ]
    if not pairs:
        return None
    vectors = embedder.passage([text for text, _ in pairs]).reshape(len(pairs), -1)
    near = vectors @ embedder.query(question)
    scores = [
        float(cosine) + 0.1 * shared_pairs(question, text)
        for cosine, (text, _) in zip(near, pairs, strict=True)
    ]
    return pairs[scores.index(max(scores))]


def shared_pairs(question: str, sentence: str) -> float:
    """Part of the question's pairs of neighbouring characters that the sentence has, 0 to 1."""
    asked, said = ({text[at : at + 2] for at in range(len(text) - 1)} for text in (question, sentence))
    return len(asked & said) / len(asked) if asked else 0.0


def sources_text(found: list[Passage]) -> str:
    """What is put under an answer: each source once, with its passages' numbers in the prompt."""
    numbers: dict[str, str] = {}
    for number, passage in enumerate(found, 1):
        name = f"{passage.source} {passage.date}".strip()
        numbers[name] = numbers.get(name, "") + f"[{number}]"
    return "\n\n来源 Sources: " + "; ".join(f"{number} {name}" for name, number in numbers.items())


def annotations(found: list[Passage]) -> list[dict[str, Any]]:
    """The sources in the shape that OpenAI's clients read: url_citation."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": passage.source,
                "title": passage.document,
                "start_index": 0,
                "end_index": 0,
            },
        }
        for passage in found
    ]
