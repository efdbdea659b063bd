"""The plan of a large queue: classes in their turn, many jobs at a time.

Which pool the next jobs of a class go to, and at which edge they start, is judged for all pools at once by
the fewest devices free in each slot. Once there, they fill the devices one after the other, each for its own
time, exactly.
"""

import heapq

import numpy as np

from suan.rules.clearing.commit import Desk, commit, cost_at, spans
from suan.rules.clearing.layout import AnyFloats, View, at_edges
from suan.rules.clearing.profile import FOREVER_S, Profile
from suan.rules.clearing.question import Counts, Placements
from suan.rules.clearing.slots import Floats

_PARTS = 4  # of a class: fewer are faster, more follow the prices closer (bench/clear.py)
_FAR = 1e30


class Crew:
    """The jobs behind the classes, by class and then turn: how long each is, and where it went."""

    def __init__(self, counts: Counts, run_ratio: Floats | None = None) -> None:
        total = int(counts.sum())
        self.first = np.cumsum(counts) - counts
        self.run_ratio = run_ratio  # of the class's length; None: all of it
        self.pool = np.full(total, -1, dtype=np.int64)
        self.start_s = np.full(total, -1, dtype=np.int64)
        self.done = np.zeros(len(counts), dtype=np.int64)

    def runs(self, k: int, run_s: int, most: int) -> list[int]:
        """How long the next jobs of a class are where its length is `run_s`."""
        if self.run_ratio is None:
            return [run_s] * most
        low = int(self.first[k] + self.done[k])
        return [int(run) for run in np.ceil(self.run_ratio[low : low + most] * run_s - 1e-6)]

    def plan(self) -> Placements:
        """Where they went, equal jobs together."""
        classes = np.repeat(np.arange(len(self.first)), np.diff(np.append(self.first, len(self.pool))))
        went = self.pool >= 0
        table = np.stack([classes[went], self.start_s[went], self.pool[went]])
        table = table[:, np.lexsort(table[::-1])]
        new = np.ones(table.shape[1], dtype=bool)
        new[1:] = (table[:, 1:] != table[:, :-1]).any(axis=0)
        at = np.flatnonzero(new)
        counts = np.diff(np.append(at, table.shape[1]))
        return Placements(classes=table[0, at], pools=table[2, at], start_s=table[1, at], counts=counts)

    def sent(self, k: int, pool: int, starts_s: list[int]) -> None:
        """The next jobs of a class start in a pool."""
        low = int(self.first[k] + self.done[k])
        self.pool[low : low + len(starts_s)] = pool
        self.start_s[low : low + len(starts_s)] = starts_s
        self.done[k] += len(starts_s)


class _Sight:
    """What all pools have free by slot, and what starts cost there."""

    def __init__(self, at: Desk, free: list[Profile]) -> None:
        self.desk, self.layout = at, at.layout
        self.edges_s = at.layout.question.slots.edges_s
        self.seen: View = at.layout.view(rough=True)
        value, slope = at.running
        self.running: tuple[AnyFloats, AnyFloats] = value.astype(np.float32), slope.astype(np.float32)
        self.free = np.array([profile.by_slot(self.edges_s) for profile in free])
        # the first slot after a run that starts at an edge
        runs, self.length = np.unique(at.layout.rows.run, return_inverse=True)
        self.after = np.searchsorted(at.layout.edges, at.layout.edges + runs[:, None], side="left")

    def look_again(self, pool: int, profile: Profile) -> None:
        self.free[pool] = profile.by_slot(self.edges_s)

    def costs(self, rows: Counts) -> AnyFloats:
        """(rows, S + 1): of one job of each row from each edge on."""
        laid = self.layout.rows
        each = at_edges(self.layout, self.seen, self.running, laid.shape[rows])
        each *= laid.devices[rows].astype(np.float32)[:, None]
        each += laid.fixed[rows].astype(np.float32)[:, None]
        return each

    def least(self, rows: Counts, costs: AnyFloats) -> tuple[AnyFloats, Counts]:
        """(rows,) each: the least cost where a job can start, and at which edge; `_FAR` where none."""
        laid = self.layout.rows
        short = np.zeros((len(rows), costs.shape[1] + 1), dtype=np.int32)
        narrow = self.free[laid.pools[rows]] < laid.devices[rows][:, None]
        np.cumsum(narrow, axis=1, out=short[:, 1:])
        after = np.maximum(self.after[self.length[rows]], np.arange(1, costs.shape[1] + 1))
        ahead = np.take_along_axis(short, after, axis=1) - short[:, :-1]
        open_costs = np.where(ahead == 0, costs, np.float32(_FAR))
        edge = open_costs.argmin(axis=1)
        return open_costs[np.arange(len(rows)), edge], edge


def commit_bulk(at: Desk, turns: Counts, free: list[Profile], left: Counts, crew: Crew) -> None:
    """Sends the crew's jobs, class after class. `free` and `left`, the jobs still to place, are written."""
    sight = _Sight(at, free)
    where = {int(k): np.arange(first, last) for k, first, last in spans(at.layout)}
    rest: list[int] = []
    for k in turns.tolist():
        if left[k] > 0 and k in where:
            _place(sight, k, where[k], (free, left, crew))
            if left[k] > 0:
                rest.append(k)
    # what no edge would do for finds its place between them
    for k, pool, start_s, count in commit(at, np.array(rest, dtype=np.int64), free, left):
        crew.sent(k, pool, [start_s] * count)


def _place(sight: _Sight, k: int, rows: Counts, room: tuple[list[Profile], Counts, Crew]) -> None:
    free, left, _ = room
    costs = sight.costs(rows)
    least, edge = sight.least(rows, costs)
    piece = -(-int(left[k]) // _PARTS)
    while left[k] > 0:
        best = int(least.argmin())
        if least[best] >= _FAR:
            break
        row, start_s = int(rows[best]), int(sight.edges_s[edge[best]])
        pool = int(sight.layout.rows.pools[row])
        least[best] = _FAR
        _fill(sight.desk, (k, row), start_s, room, (float(least.min()), piece))
        sight.look_again(pool, free[pool])
        if left[k] > 0:
            again = sight.least(rows[best : best + 1], costs[best : best + 1])
            least[best], edge[best] = again[0][0], again[1][0]


def _fill(
    at: Desk,
    who: tuple[int, int],
    start_s: int,
    room: tuple[list[Profile], Counts, Crew],
    until: tuple[float, int],
) -> None:
    """Jobs side by side from a start and one after the other, until a rival is cheaper, at least a piece."""
    (k, row), (free, left, crew), (rival, piece) = who, room, until
    question, rows = at.layout.question, at.layout.rows
    pool, devices = int(rows.pools[row]), int(rows.devices[row])
    run_s, wanted = int(question.run_s[k, pool]), int(left[k])
    lanes = min(wanted, free[pool].least(start_s, start_s + run_s) // devices)
    end_s = free[pool].until(start_s, lanes * devices)
    if wanted > lanes and rival < _FAR:
        last_s = _rival_from(at, row, start_s, rival)
        wanted = min(wanted, max(piece, lanes)) if last_s <= start_s else wanted
    else:
        last_s = FOREVER_S
    ends = [start_s] * lanes
    starts: list[int] = []
    for run in crew.runs(k, run_s, wanted):
        begin_s = ends[0]
        if begin_s + run > end_s or (begin_s > last_s and len(starts) >= piece):
            break
        heapq.heapreplace(ends, begin_s + run)
        starts.append(begin_s)
    crew.sent(k, pool, starts)
    left[k] -= len(starts)
    free[pool].take_until(start_s, np.array(ends, dtype=np.int64), devices)


def _rival_from(at: Desk, row: int, start_s: int, rival: float) -> int:
    """The last of some later starts that costs no more than the rival."""
    run = at.layout.rows.run[row]
    starts = start_s + np.arange(0, 33) * np.maximum(1.0, run // 2)
    dear = cost_at(at, row, starts) > rival
    return int(starts[max(0, int(dear.argmax()) - 1)]) if dear.any() else FOREVER_S
