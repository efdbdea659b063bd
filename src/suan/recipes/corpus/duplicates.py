"""Which documents say what an earlier one said: word for word, or nearly, across a whole corpus.

Knows MinHash over character n-grams, which needs no word boundaries and so serves Chinese and English alike,
and banding (LSH): pairs that share a band are measured, and what is alike enough forms groups of which the
first stays. The same sketches serve one process (numpy) and a cluster (`engines.py`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from suan.recipes.corpus.codes import Texts

if TYPE_CHECKING:
    import numpy as np

PERMUTATIONS = 128
BANDS = 32  # 4 rows a band: pairs from about 0.4 alike become candidates; each is then measured
_SEED = 1


def fingerprints(texts: Sequence[str]) -> "np.ndarray[Any, Any]":
    """64 bits of each text, equal for texts that differ in punctuation, spaces and case alone."""
    import numpy as np

    words = Texts(texts).words()
    digests = (
        hashlib.blake2b(words.codes[start:stop].tobytes(), digest_size=8).digest()
        for start, stop in zip(words.offsets[:-1], words.offsets[1:], strict=True)
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def sketches(texts: Sequence[str], ngram_chars: int) -> "np.ndarray[Any, Any]":
    """(texts, permutations): MinHash signatures of the texts' character n-grams."""
    import numpy as np
    from rensa import RMinHash

    if not texts:
        return np.zeros((0, PERMUTATIONS), np.uint32)
    hashes, offsets = Texts(texts).words().windows(ngram_chars)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), PERMUTATIONS, _SEED
    )
    return np.array(matrix.to_rows(), np.uint32)


def band_hashes(signatures: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """(texts, bands): one hash of each band, its number included."""
    import numpy as np

    rows = PERMUTATIONS // BANDS
    parts = signatures.reshape(-1, BANDS, rows).astype(np.uint64)
    mixed = np.broadcast_to(np.arange(1, BANDS + 1, dtype=np.uint64), parts.shape[:2]).copy()
    for row in range(rows):
        mixed = (mixed ^ parts[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed


def star_edges(bands: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """(pairs, 2): every text with the first one that shares a band with it."""
    import numpy as np

    found = []
    for band in range(bands.shape[1]):
        _, first, group = np.unique(bands[:, band], return_index=True, return_inverse=True)
        origin = first[group]
        later = np.flatnonzero(origin != np.arange(len(bands)))
        found.append(np.stack([origin[later], later], 1))
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)


def alike(
    signatures: "np.ndarray[Any, Any]", edges: "np.ndarray[Any, Any]", threshold: float
) -> "np.ndarray[Any, Any]":
    """Those of the edges whose ends have an estimated Jaccard similarity of `threshold` or more."""
    import numpy as np

    kept = []
    for block in np.array_split(edges, max(1, len(edges) // 65_536)):
        similarity = (signatures[block[:, 0]] == signatures[block[:, 1]]).mean(1)
        kept.append(block[similarity >= threshold])
    return np.concatenate(kept)


def groups(edges: Iterable[tuple[int, int]]) -> dict[int, int]:
    """text -> the first text of its group, for every text but the first ones."""
    parent: dict[int, int] = {}

    def root(text: int) -> int:
        while (above := parent.get(text, text)) != text:
            parent[text] = parent.get(above, above)
            text = above
        return text

    for one, other in edges:
        first, second = sorted((root(int(one)), root(int(other))))
        parent[second] = first
    return {text: root(text) for text in sorted(parent) if root(text) != text}


def exact_duplicates(prints: "np.ndarray[Any, Any]") -> dict[int, int]:
    """text -> the first text with the same fingerprint."""
    import numpy as np

    _, first, group = np.unique(prints, return_index=True, return_inverse=True)
    origin = first[group]
    return {int(here): int(origin[here]) for here in np.flatnonzero(origin != np.arange(len(prints)))}


def near_duplicates(signatures: "np.ndarray[Any, Any]", threshold: float) -> dict[int, int]:
    """text -> the first text of its group of near duplicates, in one process."""
    return groups(alike(signatures, star_edges(band_hashes(signatures)), threshold).tolist())
