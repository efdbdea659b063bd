"""The plan of a large queue: classes in their turn, in pieces instead of job by job.

Which pool a piece goes to is judged for all pools at once, by the fewest devices free in each slot; where in
the pool it starts, and how much of it fits there, is exact.
"""

import numpy as np

from suan.rules.commit import Desk, Row, cheapest, commit, spans, take
from suan.rules.layout import AnyFloats, View, at_edges
from suan.rules.profile import Profile
from suan.rules.question import Counts
from suan.rules.slots import Floats

_PARTS = 8  # of a class: fewer are faster, more follow the prices closer (bench/clear.py)


class _Sight:
    """What all pools have free by slot, and what starts cost there."""

    def __init__(self, at: Desk, free: list[Profile]) -> None:
        self.desk = at
        self.layout = at.layout
        self.edges_s = at.layout.question.slots.edges_s
        self.seen: View = at.layout.view(rough=True)
        value, slope = at.running
        self.running: tuple[AnyFloats, AnyFloats] = value.astype(np.float32), slope.astype(np.float32)
        self.free = np.array([profile.by_slot(self.edges_s) for profile in free])
        # the first slot after a run that starts at an edge
        self.after = self.seen.plus + (self.seen.plus_part > 0)

    def look_again(self, pool: int, profile: Profile) -> None:
        self.free[pool] = profile.by_slot(self.edges_s)

    def costs(self, rows: Counts) -> AnyFloats:
        """(rows, S + 1): of one job of each row from each edge on."""
        laid = self.layout.rows
        each = at_edges(self.layout, self.seen, self.running, laid.shape[rows])
        each *= laid.devices[rows].astype(np.float32)[:, None]
        each += laid.fixed[rows].astype(np.float32)[:, None]
        return each

    def least(self, rows: Counts, costs: AnyFloats) -> Floats:
        """(rows,): the least of the costs where a job can start; infinite where no edge will do."""
        laid = self.layout.rows
        short = np.zeros((len(rows), costs.shape[1] + 1), dtype=np.int32)
        narrow = self.free[laid.pools[rows]] < laid.devices[rows][:, None]
        np.cumsum(narrow, axis=1, out=short[:, 1:])
        length = self.layout.shapes.length[laid.shape[rows]]
        ahead = np.take_along_axis(short, self.after[length], axis=1) - short[:, :-1]
        return np.asarray(np.where((ahead == 0) & ~narrow, costs, np.inf).min(axis=1), dtype=np.float64)


def commit_bulk(at: Desk, turns: Counts, free: list[Profile], left: Counts) -> list[Row]:
    """Rows for the classes in their turns. `free` and `left`, the jobs still to place, are written."""
    rows: list[Row] = []
    sight = _Sight(at, free)
    where = {int(k): np.arange(first, last) for k, first, last in spans(at.layout)}
    rest: list[int] = []
    for k in turns.tolist():
        if left[k] > 0 and k in where:
            rows.extend(_place(sight, k, where[k], (free, left)))
            if left[k] > 0:
                rest.append(k)
    # what no edge would do for finds its place between them
    return rows + commit(at, np.array(rest, dtype=np.int64), free, left)


def _place(sight: _Sight, k: int, rows: Counts, room: tuple[list[Profile], Counts]) -> list[Row]:
    free, left = room
    placed: list[Row] = []
    pools = sight.layout.rows.pools
    costs = sight.costs(rows)
    least = sight.least(rows, costs)
    piece = -(-int(left[k]) // _PARTS)
    while left[k] > 0:
        best = int(least.argmin())
        if not np.isfinite(least[best]):
            break
        row = int(rows[best])
        pool = int(pools[row])
        found = cheapest(sight.desk, row, free[pool])
        assert found is not None, "a start at an edge is a start"
        least[best] = np.inf
        placed.extend(take(sight.desk, (k, row), found[1], room, (float(least.min()), piece)))
        sight.look_again(pool, free[pool])
        least[best] = sight.least(rows[best : best + 1], costs[best : best + 1])[0]
    return placed
