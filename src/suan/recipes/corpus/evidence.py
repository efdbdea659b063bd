"""How likely each line of a page stands inside its article, by what it is and by what stands around it.

Knows the features and how they are counted for many pages at once; their weights are learned with the line
classifier's, in `train_quality.py`, and shipped beside them. Does not decide what is kept.
"""

from typing import TYPE_CHECKING, Any

from suan.recipes.corpus.codes import COMMA, DIGIT, LETTER

if TYPE_CHECKING:
    import numpy as np

    from suan.recipes.corpus.lines import Judged

    Array = np.ndarray[Any, Any]

FEATURES = (
    "any line",
    "prose",
    "ends as a sentence",
    "size of prose",
    "size of others",
    "long other",
    "quality",
    "quality of prose",
    "quality around",
    "quality of the list",
    "prose above",
    "prose below",
    "prose above and below",
    "numbered",
    "speaker",
    "link",
    "heading",
    "spam word",
    "clauses",
    "notice",
    "counter",
    "navigation",
    "list of words",
    "clock",
    "digits",
    "other script",
    "verse",
    "said in the prose",
    "said again",
)
_REACH = 4  # lines above and below that count
_VERSE_CHARS = (3, 24)


def log_odds(judged: "Judged") -> "Array":
    """For every line, the log odds that it stands inside the article."""
    from suan.recipes.corpus.quality import stored

    return features(judged) @ stored("evidence")


def features(judged: "Judged") -> "Array":
    """(lines, FEATURES): about one in size each."""
    import numpy as np

    is_, prose = judged.is_, judged.prose.astype(float)
    said = np.where(judged.prose & ~judged.hard & (judged.read > -1), np.minimum(1, judged.size / 40), 0)
    above, below = _nearest(said, judged.page)
    around = np.where(judged.hard, -2.0, judged.read)
    columns = (
        np.ones(len(prose)),
        prose,
        is_["ends"] & ~judged.prose,
        prose * np.minimum(judged.size, 120) / 25,
        (1 - prose) * np.minimum(judged.size, 40) / 10,
        ~judged.prose & (judged.size > 45),
        judged.read,
        judged.read * prose,
        _around(around, judged.page),
        _run(around, judged.page, judged.prose) * (1 - prose),
        above,
        below,
        np.minimum(above, below),
        is_["numbered"],
        is_["speaker"],
        judged.link > 0.6,
        judged.heading,
        (is_["hits"] > 0) & ~judged.prose,
        ~is_["ends"] & (judged.size > 40) & (judged.counts[:, COMMA] >= 2),
        is_["notice"],
        judged.is_counter,
        judged.is_navigation,
        np.minimum(1, is_["listed"] / np.maximum(1, judged.han) * 6),
        is_["clock"],
        judged.counts[:, DIGIT] / judged.length,
        _other_script(judged, said),
        _verse(judged),
        _overlap(judged, said > 0),
        _repeated(judged),
    )
    return np.stack(columns, 1, dtype=np.float64)


def _shifted(values: "Array", page: "Array", by: int) -> tuple["Array", "Array"]:
    """(`values` of the line `by` further up, whether that line is on the same page)."""
    import numpy as np

    moved, same = np.roll(values, by), np.roll(page, by) == page
    edge = slice(0, by) if by > 0 else slice(by, None)
    same[edge] = False
    return np.where(same, moved, 0), same


def _around(values: "Array", page: "Array") -> "Array":
    """The mean of `values` over the lines near each line, the nearest weighing most."""
    import numpy as np

    total, weights = np.zeros(len(page)), np.zeros(len(page))
    for distance in range(1, _REACH + 1):
        for by in (distance, -distance):
            moved, same = _shifted(values, page, by)
            total += moved / distance
            weights += same / distance
    return total / np.maximum(1, weights)


def _run(values: "Array", page: "Array", prose: "Array") -> "Array":
    """The mean of `values` over the run of lines, all prose or none, in which each line stands."""
    import numpy as np

    new = np.concatenate(([True], (page[1:] != page[:-1]) | (prose[1:] != prose[:-1])))[: len(page)]
    run = np.cumsum(new) - 1
    return (np.bincount(run, values) / np.maximum(1, np.bincount(run)))[run] if len(page) else values


def _nearest(said: "Array", page: "Array") -> tuple["Array", "Array"]:
    """(how much prose stands near above each line, and below)."""
    import numpy as np

    above, below = np.zeros(len(page)), np.zeros(len(page))
    for distance in range(1, _REACH + 1):
        share = 1 - (distance - 1) / _REACH
        above = np.maximum(above, share * _shifted(said, page, distance)[0])
        below = np.maximum(below, share * _shifted(said, page, -distance)[0])
    return above, below


def _other_script(judged: "Judged", said: "Array") -> "Array":
    """Short lines in Latin letters on a page in Chinese, or the other way round."""
    import numpy as np

    is_chinese = judged.han * 4 > judged.length
    size = np.where(said > 0, judged.size, 0)
    pages = judged.page[-1] + 1 if len(judged.page) else 0
    chinese = np.bincount(judged.page, np.where(is_chinese, size, 0), pages)
    share = (chinese / np.maximum(1, np.bincount(judged.page, size, pages)))[judged.page]
    spoken = judged.counts[:, LETTER] + judged.han > 0
    return ((share > 0.8) | (share < 0.2)) & (is_chinese != (share > 0.5)) & (judged.size < 60) & spoken


def _verse(judged: "Judged") -> "Array":
    """Lines of one length with two neighbours: verse, which needs no full stops."""
    import numpy as np

    least, most = _VERSE_CHARS
    clean = (judged.han >= least) & (judged.han <= most) & (judged.link < 0.5) & ~judged.hard
    # Punctuation apart, a line of verse is nothing but characters.
    clean &= judged.length - judged.han <= 2
    length = np.where(clean, judged.han, -1)
    same = {by: (_shifted(length, judged.page, by)[0] == length) & clean for by in (-2, -1, 1, 2)}
    return (same[-1] & same[1]) | (same[-1] & same[-2]) | (same[1] & same[2])


def _overlap(judged: "Judged", said: "Array") -> "Array":
    """The part of each line's pairs of characters that other lines of prose on its page have."""
    import numpy as np

    hashes, offsets = judged.codes.folded.windows(2)
    line = np.repeat(np.arange(len(said)), np.diff(offsets))
    keys = hashes ^ (judged.page[line].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    order = np.lexsort((line, keys))
    keys, line = keys[order], line[order]
    first = np.concatenate(([True], (keys[1:] != keys[:-1]) | (line[1:] != line[:-1])))[: len(keys)]
    keys, line = keys[first], line[first]
    group = np.cumsum(np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)]) - 1
    others = np.bincount(group, said[line])[group] - said[line] if len(keys) else np.zeros(0)
    many = np.bincount(line, minlength=len(said))
    return np.bincount(line, others > 0, len(said)) / np.maximum(1, many)


def _repeated(judged: "Judged") -> "Array":
    """How often the page says a line again, as a logarithm."""
    import numpy as np

    seen: dict[tuple[int, str], int] = {}
    keys = list(zip(judged.page.tolist(), judged.texts, strict=True))
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
    return np.log(np.fromiter((seen[key] for key in keys), float, len(keys)))
