"""Documents that hold what a model will be examined on.

Knows n-gram overlap: of each item of an evaluation set, the part whose windows a document has. Windows are of
characters, so that Chinese needs no words; `ENGLISH_CHARS` make up for the letters of a word.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from suan.recipes.corpus.codes import HAN, STRANGE, Texts

ENGLISH_CHARS = 3


def item_texts(folder: Path) -> Iterator[str]:
    """Every string in the JSON lines of a folder, however deep, and every line of its text files."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        opened = gzip.open if file.suffix == ".gz" else open
        if ".json" in file.name:
            with opened(file, "rt", encoding="utf-8") as lines:
                text = lines.read()
            try:
                yield from _strings(json.loads(text))
            except json.JSONDecodeError:
                for line in filter(str.strip, text.splitlines()):
                    yield from _strings(json.loads(line))
        elif file.suffix in (".txt", ".csv", ".tsv"):
            yield from file.read_text("utf-8", "replace").splitlines()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


class Examined:
    """An evaluation set, ready to be looked for."""

    def __init__(self, items: Sequence[str], ngram: int, ratio: float) -> None:
        """`ngram` in Chinese characters; a shorter item cannot be told from chance and is left out."""
        self._ratio = ratio
        self._windows: list[tuple[int, dict[int, list[int]]]] = []
        self._sizes: dict[int, int] = {}
        self.items, self.too_short = list(dict.fromkeys(items)), 0
        texts = Texts(self.items)
        words, counts = texts.words(), texts.counts()
        is_chinese = (counts[:, HAN] + counts[:, STRANGE]) * 3 > counts.sum(1)
        lengths = words.offsets[1:] - words.offsets[:-1]
        for width, chinese in ((ngram, True), (ngram * ENGLISH_CHARS, False)):
            hashes, offsets = words.windows(width)
            owners: dict[int, list[int]] = defaultdict(list)
            for item, length in enumerate(lengths.tolist()):
                if bool(is_chinese[item]) != chinese:
                    continue
                if length < width:
                    self.too_short += 1
                    continue
                own = set(hashes[offsets[item] : offsets[item + 1]].tolist())
                self._sizes[item] = len(own)
                for value in own:
                    owners[value].append(item)
            if owners:
                self._windows.append((width, dict(owners)))

    def found_in(self, texts: Sequence[str]) -> dict[int, str]:
        """text -> the item of which it holds the most, where that is at least the ratio."""
        import numpy as np

        hits: dict[tuple[int, int], int] = defaultdict(int)
        words = Texts(texts).words()
        for width, owners in self._windows:
            hashes, offsets = words.windows(width)
            known = np.isin(hashes, np.fromiter(owners, np.uint64, len(owners)))
            places = np.flatnonzero(known)
            rows = np.searchsorted(offsets, places, "right") - 1
            for row, value in set(zip(rows.tolist(), hashes[places].tolist(), strict=True)):
                for item in owners[value]:
                    hits[row, item] += 1
        best: dict[int, tuple[float, int]] = {}
        for (row, item), many in sorted(hits.items()):
            share = many / self._sizes[item]
            if share >= self._ratio and share > best.get(row, (0.0, 0))[0]:
                best[row] = (share, item)
        return {row: self.items[item] for row, (_, item) in best.items()}
