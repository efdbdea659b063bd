"""How likely each line of a page stands inside its article, by what it is and by what stands around it.

Knows the features and how they are counted for many pages at once, and the network that weighs them: one
hidden layer, because an advertisement amid paragraphs and a heading above them differ by no feature alone.
Its weights are learned in `train_evidence.py` and shipped beside the line classifier's. Does not decide what
is kept.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from suan.recipes.corpus.codes import COMMA, DIGIT, LETTER

if TYPE_CHECKING:
    import numpy as np

    from suan.recipes.corpus.lines import Judged

    Array = np.ndarray[Any, Any]

FEATURES = (
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
    "says its words again",
    "said again",
    "code",
    "code around",
    "under a marker",
    "lines",
    "part of the prose above",
    "part of the prose below",
    "run of short lines",
    "end of the run",
)
_REACH = 4  # lines above and below that count
_VERSE_CHARS = (3, 24)


class Network(NamedTuple):
    """Weights from features to hidden units and from those to log odds."""

    hidden: "Array"  # (features, units)
    hidden_bias: "Array"
    out: "Array"  # (units,)
    out_bias: float

    def log_odds(self, rows: "Array") -> "Array":
        import numpy as np

        return np.maximum(0, rows @ self.hidden + self.hidden_bias) @ self.out + self.out_bias


@cache
def learned() -> Network:
    """The network that is shipped."""
    from suan.recipes.corpus.quality import stored

    return Network(stored("hidden"), stored("hidden_bias"), stored("out"), float(stored("out_bias")))


def log_odds(judged: "Judged") -> "Array":
    """For every line, the log odds that it stands inside the article."""
    return learned().log_odds(features(judged))


def features(judged: "Judged") -> "Array":
    """(lines, FEATURES): about one in size each."""
    import numpy as np

    is_, prose = judged.is_, judged.prose.astype(float)
    said = np.where(judged.prose & ~judged.hard & (judged.read > -1), np.minimum(1, judged.size / 40), 0)
    above, below = _nearest(said, judged.page)
    around = np.where(judged.hard, -2.0, judged.read)
    code = np.minimum(1, judged.symbols * 4)
    before, after, many = _place(judged, said)
    overlap, again = _overlap(judged, said > 0)
    short, left = _short_run(judged)
    columns = (
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
        overlap,
        again,
        _repeated(judged),
        code,
        _around(code, judged.page),
        _under(judged),
        many,
        before,
        after,
        short,
        left,
    )
    return np.stack(columns, 1, dtype=np.float64)


def _place(judged: "Judged", said: "Array") -> tuple["Array", "Array", "Array"]:
    """(the part of the page's prose above each line, and below; the page's lines, as a logarithm)."""
    import numpy as np

    page, prose = judged.page, np.where(said > 0, judged.size, 0.0)
    pages = page[-1] + 1 if len(page) else 0
    whole, many = np.bincount(page, prose, pages), np.bincount(page, minlength=pages)
    up_to = np.cumsum(prose) - (np.cumsum(whole) - whole)[page]
    total = np.maximum(1, whole)[page]
    return (up_to - prose) / total, 1 - up_to / total, np.log(many)[page] / 4


def _short_run(judged: "Judged") -> tuple["Array", "Array"]:
    """(how many short lines without a sentence's end each stands among, the part of them below it)."""
    import numpy as np

    short = ~judged.is_["ends"] & (judged.size < 32)
    run = _runs(judged.page, short)
    many = np.bincount(run)[run] if len(run) else run
    first = np.concatenate(([True], run[1:] != run[:-1]))[: len(run)]
    start = np.flatnonzero(first)[run] if len(run) else run
    done = (np.arange(len(run)) - start + 1) / np.maximum(1, many)
    return short * np.log(np.maximum(1, many)) / 2, short * (1 - done)


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


def _under(judged: "Judged") -> "Array":
    """Whether no prose stands between a line and the nearest heading of links above it."""
    import numpy as np

    here = np.arange(len(judged.page))
    marker = np.maximum.accumulate(np.where(judged.is_["marker"], here, -1)) if len(here) else here
    prose = np.maximum.accumulate(np.where(judged.prose, here, -1)) if len(here) else here
    return (marker > prose) & (judged.page[marker] == judged.page)


def _runs(page: "Array", kind: "Array") -> "Array":
    """The number of the run of lines of one kind on one page in which each line stands."""
    import numpy as np

    new = np.concatenate(([True], (page[1:] != page[:-1]) | (kind[1:] != kind[:-1])))[: len(page)]
    return np.cumsum(new) - 1


def _run(values: "Array", page: "Array", prose: "Array") -> "Array":
    """The mean of `values` over the run of lines, all prose or none, in which each line stands."""
    import numpy as np

    run = _runs(page, prose)
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


def _overlap(judged: "Judged", said: "Array") -> tuple["Array", "Array"]:
    """(the part of a line's pairs of characters that the page's other prose has, the part it says again).

    Stuffed lines are strung together from few words.
    """
    import numpy as np

    hashes, offsets = judged.codes.folded.windows(2)
    line = np.repeat(np.arange(len(said)), np.diff(offsets))
    keys = hashes ^ (judged.page[line].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    order = np.argsort(keys, kind="stable")  # lines are in order already
    keys, line = keys[order], line[order]
    first = np.concatenate(([True], (keys[1:] != keys[:-1]) | (line[1:] != line[:-1])))[: len(keys)]
    keys, line = keys[first], line[first]
    group = np.cumsum(np.concatenate(([True], keys[1:] != keys[:-1]))[: len(keys)]) - 1
    others = np.bincount(group, said[line])[group] - said[line] if len(keys) else np.zeros(0)
    many = np.bincount(line, minlength=len(said))
    pairs = np.diff(offsets)
    # Letters come in few pairs, whatever they say.
    again = np.where((pairs >= 16) & (judged.han * 2 > judged.length), 1 - many / np.maximum(1, pairs), 0)
    return np.bincount(line, others > 0, len(said)) / np.maximum(1, many), again


def _repeated(judged: "Judged") -> "Array":
    """How often the page says a line again, as a logarithm."""
    import numpy as np

    seen: dict[tuple[int, str], int] = {}
    keys = list(zip(judged.page.tolist(), judged.texts, strict=True))
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
    return np.log(np.fromiter((seen[key] for key in keys), float, len(keys)))
