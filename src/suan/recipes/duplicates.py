"""Which documents say what an earlier one said: word for word, or nearly.

Knows MinHash over character n-grams, which needs no word boundaries and so serves Chinese and English alike.
"""

import hashlib
import re
from collections.abc import Sequence

_PERMUTATIONS = 128
_BANDS = 32  # 4 rows a band: pairs from about 0.4 alike become candidates; each is then measured
_SEED = 1
_NOT_WORDS = re.compile(r"[\W_]+")


def fingerprint(text: str) -> str:
    """Equal for texts that differ in punctuation, spaces and case alone."""
    return hashlib.blake2b(_NOT_WORDS.sub("", text).lower().encode(), digest_size=16).hexdigest()


def exact_duplicates(texts: Sequence[str]) -> dict[int, int]:
    """index -> index of the first text with the same words."""
    first: dict[str, int] = {}
    found = {}
    for index, text in enumerate(texts):
        original = first.setdefault(fingerprint(text), index)
        if original != index:
            found[index] = original
    return found


def near_duplicates(texts: Sequence[str], *, threshold: float, ngram_chars: int) -> dict[int, int]:
    """index -> index of the earliest kept text whose estimated Jaccard similarity reaches `threshold`."""
    from rensa import RMinHash, RMinHashLSH

    index_of_bands = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    kept: dict[int, RMinHash] = {}
    found = {}
    for index, text in enumerate(texts):
        words = _NOT_WORDS.sub("", text).lower()
        sketch = RMinHash(_PERMUTATIONS, _SEED)
        last = max(1, len(words) - ngram_chars + 1)
        sketch.update([words[start : start + ngram_chars] for start in range(last)])
        alike = [other for other in index_of_bands.query(sketch) if sketch.jaccard(kept[other]) >= threshold]
        if alike:
            found[index] = min(alike)
        else:
            kept[index] = sketch
            index_of_bands.insert(index, sketch)
    return found
