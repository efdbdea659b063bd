"""Documents cut where sentences end. Knows punctuation; neither embeddings nor indices."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from suan.grid.error import Refused

_SENTENCE = re.compile(r"[^。！？!?\n]*(?:[。！？!?]+[”’」』）)]*|\n|$)|\.\s")
_KEYS = ("id", "text", "source", "date")


def sentences(text: str) -> list[str]:
    """The text's sentences, in order, with their punctuation."""
    return [part for found in _SENTENCE.finditer(text) if (part := found.group().strip())]


def passages(text: str, longest: int, overlap: int) -> list[str]:
    """Runs of whole sentences of `longest` characters at most; a longer sentence is cut.

    Each repeats the last `overlap` sentences of the one before, so that what stands on a border is found.
    """
    parts = [
        sentence[at : at + longest] for sentence in sentences(text) for at in range(0, len(sentence), longest)
    ]
    found: list[list[str]] = []
    current: list[str] = []
    for part in parts:
        if current and sum(map(len, current)) + len(part) > longest:
            found.append(current)
            kept = current[len(current) - overlap :] if overlap else []
            current = kept if sum(map(len, kept)) + len(part) <= longest else []
        current = [*current, part]
    if current:
        found.append(current)
    return ["".join(run) for run in found]


def read_documents(folder: Path) -> Iterator[dict[str, Any]]:
    """{"id", "text", "source", "date"} of every line of the folder's JSON lines, file by file.

    Raises: Refused `no_documents`, `bad_document`.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise Refused(
            "no_documents", f"{folder} has no *.jsonl", hint="one document a line: id, text, source, date"
        )
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                document = json.loads(line)
                missing = [key for key in _KEYS[:3] if not isinstance(document.get(key), str)]
                if missing:
                    raise Refused("bad_document", f"{file.name}:{number} has no {missing[0]}")
                yield {key: document.get(key) or "" for key in _KEYS}


def cut(folder: Path, longest: int, overlap: int) -> Iterator[dict[str, Any]]:
    """Every passage with where it is from."""
    for document in read_documents(folder):
        for position, text in enumerate(passages(document["text"], longest, overlap)):
            yield {**document, "document": document["id"], "position": position, "text": text}
