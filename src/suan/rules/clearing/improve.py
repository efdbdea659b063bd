"""A plan made cheaper by hand: a job that is dearer than it need be is taken out together with those that
stand where it would rather be, and all are put back, the dear one first.

For plans of few rows; a plan of thousands is close to its bound by its numbers alone.
"""

from collections.abc import Callable

import numpy as np

from suan.rules.clearing.commit import Row, commit, fresh, placements
from suan.rules.clearing.dual import Climb
from suan.rules.clearing.plans import Book, smith
from suan.rules.clearing.question import Counts, Limit, cost_of
from suan.rules.clearing.slots import Floats

_MOST_ROWS = 300
_TAKEN_OUT = (2, 4, 7)  # rows at a time, besides the dear one


def improve(book: Book, found: Climb, limit: Limit, out_of_time: Callable[[], bool]) -> bool:
    """Whether there was time for all tries; the book holds what came of them."""
    layout = book.layout
    if not 0 < len(book.rows) <= _MOST_ROWS:
        return True
    rank = np.empty(len(layout.question.counts), dtype=np.int64)
    rank[smith(layout)] = np.arange(len(rank))
    goal, tried, tries = (1 - limit.gap_ratio), 0, 0
    while tries < limit.improvements and tried < len(book.rows) * len(_TAKEN_OUT):
        if book.cost * goal <= found.value.bound:
            break
        if out_of_time():
            return False
        dear = _dearest(book, found)
        row = dear[tried % len(dear)]
        size = _TAKEN_OUT[tried // len(dear)]
        tries += 1
        tried += 1
        if _again(book, found, rank, (row, size)):
            tried = 0
    return True


def _dearest(book: Book, found: Climb) -> list[int]:
    """Rows of the plan by how much more they cost than at the prices' best start."""
    layout = book.layout
    least = np.zeros(len(layout.question.counts))
    least[layout.rows.of] = found.value.least
    plan = _columns(book.rows)
    cost = cost_of(layout.question, placements(book.rows, merged=False))
    return [int(i) for i in np.argsort(-(cost - plan[:, 3] * least[plan[:, 0]]), kind="stable")]


def _columns(rows: list[Row]) -> Counts:
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def _again(book: Book, found: Climb, rank: Counts, choice: tuple[int, int]) -> bool:
    """Takes one row and its rivals out and puts them back; True when that is cheaper."""
    layout, (dear, size) = book.layout, choice
    question = layout.question
    out = [dear, *_rivals(book, found, dear, size)]
    removed = [book.rows[i] for i in out]
    gone = set(out)
    kept = [row for i, row in enumerate(book.rows) if i not in gone]
    free, left = fresh(question)
    left -= np.bincount([k for k, *_ in kept], weights=[n for *_, n in kept], minlength=len(left)).astype(
        np.int64
    )
    for k, pool, start_s, count in kept:
        free[pool].take(
            start_s, start_s + int(question.run_s[k, pool]), count * int(question.devices[k, pool])
        )
    saved = [(profile.times, profile.free) for profile in free]
    others = sorted({k for k, *_ in removed[1:]} - {removed[0][0]}, key=lambda k: int(rank[k]))
    for weight in (0.0, 1.0):
        for turns in ([removed[0][0], *others], [*others, removed[0][0]]):
            for profile, (times, devices) in zip(free, saved, strict=True):
                profile.times, profile.free = times, devices
            wanted = left.copy()
            at = book.desk_at(found.prices * weight)
            rows = kept + commit(at, np.array(turns, dtype=np.int64), free, wanted)
            if book.keep(rows, placements(rows, merged=False), wanted):
                return True
    return False


def _rivals(book: Book, found: Climb, dear: int, size: int) -> list[int]:
    """The rows that hold devices where and when the dear one would run at the prices, nearest first."""
    layout = book.layout
    plan = _columns(book.rows)
    k = plan[dear, 0]
    at = int(np.searchsorted(layout.rows.of, k))
    row = int(found.value.row[at])
    start = found.value.start[at] + layout.question.slots.start_s
    finish: Floats = start + layout.rows.run[row]
    ends = plan[:, 2] + layout.question.run_s[plan[:, 0], plan[:, 1]]
    overlap = np.minimum(ends, finish) - np.maximum(plan[:, 2], start)
    distance = np.where(plan[:, 1] == layout.rows.pools[row], -overlap, np.inf)
    nearest = np.argsort(distance, kind="stable")
    return [int(i) for i in nearest if i != dear and np.isfinite(distance[i])][:size]
