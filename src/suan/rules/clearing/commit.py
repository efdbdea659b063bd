"""A plan that can be carried out: jobs take devices one class after the other, each where its cost and the
prices of what it takes are least among what is still free.

Whoever comes later finds what the earlier ones reserved taken, so backfill delays nobody before it.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np

from suan.rules.clearing.layout import Layout
from suan.rules.clearing.profile import Profile, profiles
from suan.rules.clearing.question import Counts, Placements, Question
from suan.rules.clearing.slots import Floats, Seconds

_FAR_S = 1e10  # behind the last edge, where the last slope is drawn to

Row = tuple[int, int, int, int]  # class, pool, start, count


@dataclass(slots=True)
class Desk:
    """What commits of one question at one set of prices share."""

    layout: Layout
    edges: Floats  # absolute, with one far behind the last
    value: Floats  # (P, S + 2): energy and prices at these edges
    running: tuple[Floats, Floats]  # the same as the layout has it
    least: Floats  # for each row of the layout the least that its job can cost: no start is cheaper
    menus: dict[int, tuple[Seconds, Floats]] = field(default_factory=dict)  # shape -> starts, per device


def desk(layout: Layout, prices: Floats, least: Floats) -> Desk:
    """For commits at these prices; `least` is each row's cost at its best start by them."""
    value, slope = layout.running(prices)
    edges = layout.question.slots.edges_s.astype(np.float64)
    far = value[:, -1:] + slope[:, -1:] * _FAR_S
    return Desk(
        layout=layout,
        edges=np.append(edges, edges[-1] + _FAR_S),
        value=np.concatenate([value, far], axis=1),
        running=(value, slope),
        least=least,
    )


def commit(at: Desk, turns: Counts, free: list[Profile], left: Counts) -> list[Row]:
    """Rows for the classes in their turns. `free` and `left`, the jobs still to place, are written."""
    rows: list[Row] = []
    where = {int(k): (int(first), int(last)) for k, first, last in spans(at.layout)}
    for k in turns.tolist():
        if left[k] > 0 and k in where:
            rows.extend(_place(at, k, where[k], (free, left)))
    return rows


def spans(layout: Layout) -> Counts:
    rows = layout.rows
    return np.column_stack([rows.of, rows.first, np.append(rows.first[1:], len(rows.classes))])


def _place(at: Desk, k: int, span: tuple[int, int], room: tuple[list[Profile], Counts]) -> list[Row]:
    """Rows for the jobs of one class: the cheapest start that is free, again and again."""
    free, left = room
    pools = at.layout.rows.pools
    placed: list[Row] = []
    # (cost, row, start): without a start it is what the row costs at the very least
    heap: list[tuple[float, int, int]] = [(float(at.least[row]), row, -1) for row in range(*span)]
    heapq.heapify(heap)
    while heap and left[k] > 0:
        cost, row, start_s = heapq.heappop(heap)
        if start_s < 0:
            if (found := cheapest(at, row, free[int(pools[row])])) is not None:
                heapq.heappush(heap, (found[0], row, found[1]))
            continue
        rival = heap[0][0] if heap else np.inf
        placed.extend(take(at, (k, row), start_s, room, (rival, 0)))
        if left[k] > 0:  # it costs no less than before: looked up again when its turn comes
            heapq.heappush(heap, (cost, row, -1))
    return placed


def take(
    at: Desk, who: tuple[int, int], start_s: int, room: tuple[list[Profile], Counts], until: tuple[float, int]
) -> list[Row]:
    """As many jobs as stand side by side and one after the other from a start, up to a rival's cost or at
    least a piece of so many.
    """
    (k, row), (free, left), (rival, piece) = who, room, until
    question, rows = at.layout.question, at.layout.rows
    pool, devices = int(rows.pools[row]), int(rows.devices[row])
    run_s, wanted = int(question.run_s[k, pool]), int(left[k])
    lanes = min(wanted, free[pool].least(start_s, start_s + run_s) // devices)
    repeats = 1
    if wanted > lanes:
        most = min((free[pool].until(start_s, lanes * devices) - start_s) // run_s, wanted // lanes)
        repeats = min(most, max(-(-piece // lanes), _repeats(at, row, start_s, most, rival)))
    free[pool].take(start_s, start_s + repeats * run_s, lanes * devices)
    left[k] -= lanes * repeats
    return [(k, pool, start_s + turn * run_s, lanes) for turn in range(repeats)]


def _repeats(at: Desk, row: int, start_s: int, most: int, rival: float) -> int:
    """How many runs one after the other, while none costs more than the best elsewhere."""
    if most <= 1:
        return 1
    run = at.layout.rows.run[row]
    starts = start_s + np.arange(most) * run
    dear = cost_at(at, row, starts) > rival
    return max(1, int(dear.argmax()) if dear.any() else most)


def cheapest(at: Desk, row: int, free: Profile) -> tuple[float, int] | None:
    """(cost, start) of the cheapest start that is free in the row's pool; the earliest of equals."""
    layout = at.layout
    shape = int(layout.rows.shape[row])
    devices, run_s = int(layout.rows.devices[row]), int(layout.rows.run[row])
    ready_s = int(layout.shapes.ready[shape]) + layout.question.slots.start_s
    first, last = free.starts(devices, run_s, ready_s)
    if not len(first):
        return None
    times, per_device = _menu(at, row, shape)
    span = first.searchsorted(times, side="right") - 1
    inside = (span >= 0) & (times <= last[np.maximum(span, 0)])
    ends = np.concatenate([first, last[last < at.edges[-1] / 2]])
    starts = np.concatenate([times[inside], ends])
    cost = np.concatenate([per_device[inside], _per_device(at, row, ends)])
    least = cost.min()
    start_s = int(starts[cost <= least].min())
    return float(layout.rows.fixed[row] + devices * least), start_s


def _menu(at: Desk, row: int, shape: int) -> tuple[Seconds, Floats]:
    """The starts at which a shape can be cheapest while anything is free, and what a device costs then."""
    if (menu := at.menus.get(shape)) is not None:
        return menu
    layout = at.layout
    edges, start_s = layout.question.slots.edges_s, layout.question.slots.start_s
    run_s = int(layout.rows.run[row])
    ready_s = int(layout.shapes.ready[shape]) + start_s
    due = layout.shapes.due[shape]
    in_time = [int(np.floor(due)) + start_s - run_s] if np.isfinite(due) else []
    times = np.concatenate([edges, edges - run_s, np.array(in_time, dtype=np.int64)])
    times = times[times >= ready_s]
    at.menus[shape] = menu = (times, _per_device(at, row, times))
    return menu


def cost_at(at: Desk, row: int, start_s: Floats) -> Floats:
    """What one job of a row costs, prices included, at each start."""
    rows = at.layout.rows
    return np.asarray(rows.fixed[row] + rows.devices[row] * _per_device(at, row, start_s))


def _per_device(at: Desk, row: int, start_s: Seconds | Floats) -> Floats:
    layout = at.layout
    shapes, shape = layout.shapes, layout.rows.shape[row]
    value = at.value[layout.rows.pools[row]]
    origin = layout.question.slots.start_s
    finish = start_s + layout.rows.run[row]
    cost = np.interp(finish, at.edges, value) - np.interp(start_s, at.edges, value)
    cost += shapes.waiting[shape] * (start_s - origin)
    if np.isfinite(shapes.due[shape]):
        late = np.maximum(0.0, finish - origin - shapes.due[shape])
        cost += shapes.late[shape] * late + shapes.late_fixed[shape] * (late > 0)
    return np.asarray(cost, dtype=np.float64)


def placements(rows: list[Row], *, merged: bool = True) -> Placements:
    """Rows as arrays: by class, start, pool, equal ones together; or as they are, in their own order."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    if not merged:
        return Placements(classes=table[:, 0], pools=table[:, 1], start_s=table[:, 2], counts=table[:, 3])
    key, inverse = np.unique(table[:, [0, 2, 1]], axis=0, return_inverse=True)
    counts = np.bincount(inverse.reshape(-1), weights=table[:, 3], minlength=len(key)).astype(np.int64)
    return Placements(classes=key[:, 0], pools=key[:, 2], start_s=key[:, 1], counts=counts)


def fresh(question: Question) -> tuple[list[Profile], Counts]:
    """Everything free, every job still to place."""
    return profiles(question), question.counts.copy()
