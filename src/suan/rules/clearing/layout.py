"""A question laid out for many rounds of prices: equal searches are made once, and each search is a row of
candidate starts.

The cost of a start is piecewise linear in time, so its least value lies where the start or the end of the
run meets an edge, at the deadline less the run, or at the earliest start: those are all that is looked at,
and the minimum over them is the minimum over all starts, also those behind the last slot.

Per device, jobs of one pool, run length, ready time and deadline terms differ only in what waiting costs per
device. Such a search is a *shape*; a class has one row for each pool, and rows share shapes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from suan.rules.clearing.question import Counts, Question
from suan.rules.clearing.slots import Floats

AnyFloats = npt.NDArray[np.floating]

_CHUNK_CELLS = 1 << 15  # of a block of shapes x candidates: stays in a core's cache
_ROUGH_STEP = 0.1  # between the logarithms of the run lengths that a rough search knows
_ON_TIME_S = 1e-3  # a finish at the deadline is in time, whatever floating point makes of it


@dataclass(slots=True)
class Rows:
    """(class, pool) pairs that can run, by class and then pool. Times are seconds from the first edge."""

    classes: Counts
    pools: Counts
    devices: Floats
    run: Floats
    fixed: Floats  # machine and fixed terms of one job
    shape: Counts
    first: Counts  # the first row of each class that has rows
    of: Counts  # the class behind each entry of `first`


@dataclass(slots=True)
class Shapes:
    """Searches, per device; those with a deadline last."""

    pool: Counts
    run: Floats
    waiting: Floats
    late: Floats
    late_fixed: Floats
    due: Floats
    ready: Floats


@dataclass(slots=True)
class Best:
    """For each shape the least cost per device and where it is reached."""

    cost: Floats
    start: Floats


class Layout:
    """One question, laid out. `dtype` is that of the wide tables; bounds are taken in float64."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.edges: Floats = (question.slots.edges_s - question.slots.start_s).astype(np.float64)
        self.lengths: Floats = np.diff(self.edges)
        self.rows = _rows(question)
        self.shapes, self.rows.shape = _shapes(question, self.rows)
        self.capacity = attainable(question, self.rows)
        self.energy = question.energy_microyuan_per_device
        slope = np.diff(self.energy, axis=1) / self.lengths
        self.slope = np.column_stack([slope, question.energy_microyuan_per_device_s_after])
        self._views: dict[bool, View] = {}

    def view(self, *, rough: bool) -> "View":
        """Of all shapes: in float64 and of every start that can be the best, or a rough one."""
        if rough not in self._views:
            self._views[rough] = _view(self, rough=rough)
        return self._views[rough]

    def running(self, prices: Floats) -> tuple[Floats, Floats]:
        """(P, S + 1) each: the running integral of energy and prices at the edges, its slope after them."""
        paid = np.cumsum(prices * self.lengths, axis=1)
        value = self.energy.copy()
        value[:, 1:] += paid
        slope = self.slope.copy()
        slope[:, :-1] += prices
        return value, slope

    def at(self, value: Floats, slope: Floats, pools: Counts, times: Floats) -> Floats:
        """The running integral of each pool at each moment."""
        index = np.clip(np.searchsorted(self.edges, times, side="right") - 1, 0, len(self.edges) - 1)
        return np.asarray(value[pools, index] + slope[pools, index] * (times - self.edges[index]))


def _rows(question: Question) -> Rows:
    most = question.free.max(axis=1, initial=0)
    able = (question.devices > 0) & (question.devices <= most) & (question.counts > 0)[:, None]
    classes, pools = np.nonzero(able)
    devices = question.devices[classes, pools].astype(np.float64)
    run = question.run_s[classes, pools].astype(np.float64)
    machine = question.machine_microyuan_per_device_s[pools] * devices * run
    of, first = np.unique(classes, return_index=True)
    return Rows(
        classes=classes,
        pools=pools,
        devices=devices,
        run=run,
        fixed=question.fixed_microyuan[classes, pools] + machine,
        shape=np.zeros(len(classes), dtype=np.int64),
        first=first,
        of=of,
    )


def _shapes(question: Question, rows: Rows) -> tuple[Shapes, Counts]:
    """The different searches among the rows, and which is each row's."""
    k, start_s = rows.classes, question.slots.start_s
    due = question.due_s[k] - start_s
    late = np.where(np.isfinite(due), question.late_microyuan_per_s[k], 0.0) / rows.devices
    fixed = np.where(np.isfinite(due), question.late_fixed_microyuan[k], 0.0) / rows.devices
    due = np.where((late > 0) | (fixed > 0), due, np.inf)
    columns = [
        np.isfinite(due).astype(np.float64),
        rows.pools.astype(np.float64),
        rows.run,
        question.waiting_microyuan_per_s[k] / rows.devices,
        late,
        fixed,
        due,
        (question.ready_by_pool_s[k, rows.pools] - start_s).astype(np.float64),
    ]
    picked, inverse = distinct(columns)
    _, where, run, waiting, late, fixed, due, ready = (column[picked] for column in columns)
    pool = where.astype(np.int64)
    return Shapes(
        pool=pool, run=run, waiting=waiting, late=late,
        late_fixed=fixed, due=due, ready=ready,
    ), inverse  # fmt: skip


def distinct(columns: list[Floats]) -> tuple[Counts, Counts]:
    """Which rows of a table are the first of their kind, in the order of the columns; and each row's kind."""
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:  # pairs of codes, made dense again after each column, so nothing can overflow
        _, code = np.unique(column, return_inverse=True)
        _, key = np.unique(key * (int(code.max(initial=0)) + 1) + code, return_inverse=True)
    _, picked = np.unique(key, return_index=True)
    return picked, key


def attainable(question: Question, rows: Rows) -> Floats:
    """(P, S): the most devices that jobs can hold at once: no sum of gangs lies between it and what is free.

    Five devices each on eight free ones use five. Holds at every moment, so the bound may count on it.
    """
    capacity = question.free.astype(np.float64)
    for pool in range(question.free.shape[0]):
        mine = rows.pools == pool
        most = int(question.free[pool].max(initial=0))
        sums = _sums(rows.devices[mine].astype(np.int64), question.counts[rows.classes[mine]], most)
        levels, inverse = np.unique(question.free[pool], return_inverse=True)
        reach = [(sums & ((1 << (int(level) + 1)) - 1)).bit_length() - 1 for level in levels]
        capacity[pool] = np.array(reach, dtype=np.float64)[inverse]
    return capacity


def _sums(devices: Counts, counts: Counts, most: int) -> int:
    """A bit for each sum of gangs up to `most`; a count is added in powers of two."""
    full = (1 << (most + 1)) - 1
    sums = 1
    sizes, inverse = np.unique(devices, return_inverse=True)
    totals = np.bincount(inverse, weights=counts).astype(np.int64) if len(sizes) else sizes
    for size, total in zip(sizes.tolist(), totals.tolist(), strict=True):
        left, step = min(total, most // size), 1
        while left > 0 and sums != full:
            take = min(step, left)
            sums |= (sums << (size * take)) & full
            left -= take
            step *= 2
    return sums


@dataclass(slots=True)
class View:
    """What a search looks at and what does not change from round to round, in `dtype`."""

    dtype: type[np.floating]
    rough: bool  # starts at edges only, lengths rounded: fit to find prices, not for a bound
    strip: Counts  # of each shape
    length: Counts  # of each shape
    stretch: AnyFloats  # of each shape: its length over the one that was searched
    times: npt.NDArray[np.floating]  # (lengths, candidates)
    masked: npt.NDArray[np.bool_]  # starts before the first edge
    plus: Counts  # (lengths, S + 1): where the end of a run that starts at an edge falls
    plus_part: npt.NDArray[np.floating]
    minus: Counts  # likewise the start of a run that ends at an edge
    minus_part: npt.NDArray[np.floating]
    strip_pool: Counts
    strip_length: Counts
    plain: int  # so many shapes have no deadline; the others come after them
    blocks: list[slice]
    waiting: npt.NDArray[np.floating]
    ready: npt.NDArray[np.floating]
    unready: npt.NDArray[np.bool_]


def _view(layout: Layout, *, rough: bool) -> View:
    shapes, edges = layout.shapes, layout.edges
    dtype: type[np.floating] = np.float32 if rough else np.float64
    near = np.exp(np.round(np.log(shapes.run) / _ROUGH_STEP) * _ROUGH_STEP) if rough else shapes.run
    runs, length = np.unique(near, return_inverse=True)
    _, lead, strip = np.unique(shapes.pool * len(runs) + length, return_index=True, return_inverse=True)
    ends, starts = edges + runs[:, None], edges - runs[:, None]
    plus = np.searchsorted(edges, ends, side="right") - 1
    minus = np.clip(np.searchsorted(edges, starts, side="right") - 1, 0, None)
    at_edges = np.broadcast_to(edges, ends.shape)
    times = at_edges if rough else np.concatenate([at_edges, starts], axis=1)
    count, plain = len(shapes.pool), int(np.count_nonzero(np.isinf(shapes.due)))
    step = max(1, _CHUNK_CELLS // times.shape[1])
    lows = [*range(0, plain, step), *range(plain, count, step)]
    return View(
        dtype=dtype,
        rough=rough,
        strip=strip,
        length=length,
        stretch=(shapes.run / near).astype(dtype)[:, None],
        times=np.maximum(times, 0.0).astype(dtype),
        masked=times < 0,
        plus=plus,
        plus_part=(ends - edges[plus]).astype(dtype),
        minus=minus,
        minus_part=(starts - edges[minus]).astype(dtype),
        strip_pool=shapes.pool[lead],
        strip_length=length[lead],
        plain=plain,
        blocks=[slice(low, min(low + step, plain if low < plain else count)) for low in lows],
        waiting=shapes.waiting.astype(dtype)[:, None],
        ready=shapes.ready.astype(dtype)[:, None],
        unready=shapes.ready > 0,
    )


def search(layout: Layout, seen: View, value: Floats, slope: Floats) -> Best:
    """The cheapest start of each shape, at a running integral of energy and prices."""
    count = len(layout.shapes.pool)
    cost, start = np.empty(count), np.empty(count)
    running = value.astype(seen.dtype), slope.astype(seen.dtype)
    for part in seen.blocks:
        _block(layout, seen, running, part, (cost, start))
    _specials(layout, (value, slope), (cost, start))
    return Best(cost=cost, start=start)


def _strips(seen: View, running: tuple[AnyFloats, AnyFloats], strips: slice | Counts) -> AnyFloats:
    """(strips, candidates): what one device pays for energy and prices over a run, by start."""
    value, slope = running
    pool, length = seen.strip_pool[strips], seen.strip_length[strips]
    row = (pool * value.shape[1])[:, None]
    here, value, slope = value[pool], value.reshape(-1), slope.reshape(-1)
    cell = seen.plus[length] + row
    after = slope.take(cell)
    after *= seen.plus_part[length]
    after += value.take(cell)
    after -= here
    if seen.rough:
        return np.asarray(after)
    cell = seen.minus[length] + row
    before = slope.take(cell)
    before *= seen.minus_part[length]
    before += value.take(cell)
    np.subtract(here, before, out=before)
    found = np.concatenate([after, before], axis=1)
    found[seen.masked[length]] = np.inf
    return found


def _block(
    layout: Layout, seen: View, running: tuple[AnyFloats, AnyFloats], part: slice, out: tuple[Floats, Floats]
) -> None:
    shapes = layout.shapes
    strip = seen.strip[part]  # by pool and length, so the strips of a block lie together
    low = int(strip[0])
    strips = _strips(seen, running, slice(low, int(strip[-1]) + 1))
    times = seen.times[seen.length[part]]
    cost = strips[strip - low]
    if seen.rough:
        cost *= seen.stretch[part]
    cost += times * seen.waiting[part]
    if seen.unready[part].any():
        np.copyto(cost, np.inf, where=times < seen.ready[part])
    if part.start >= seen.plain:
        late = times - (shapes.due[part] - shapes.run[part]).astype(seen.dtype)[:, None]
        cost += shapes.late_fixed[part].astype(seen.dtype)[:, None] * (late > _ON_TIME_S)
        np.maximum(late, 0, out=late)
        late *= shapes.late[part].astype(seen.dtype)[:, None]
        cost += late
    best = cost.argmin(axis=1)
    line = np.arange(len(best))
    out[0][part] = cost[line, best]
    out[1][part] = times[line, best]


def at_edges(layout: Layout, seen: View, running: tuple[AnyFloats, AnyFloats], chosen: Counts) -> AnyFloats:
    """(chosen, S + 1): what one device of each chosen shape costs from each edge on, by a rough view."""
    shapes = layout.shapes
    times = seen.times[seen.length[chosen]]
    cost = _strips(seen, running, seen.strip[chosen]) * seen.stretch[chosen]
    cost += times * seen.waiting[chosen]
    np.copyto(cost, np.inf, where=times < seen.ready[chosen])
    if np.isfinite(shapes.due[chosen]).any():
        late = times - (shapes.due[chosen] - shapes.run[chosen]).astype(seen.dtype)[:, None]
        cost += shapes.late_fixed[chosen].astype(seen.dtype)[:, None] * (late > _ON_TIME_S)
        np.maximum(late, 0, out=late)
        cost += late * shapes.late[chosen].astype(seen.dtype)[:, None]
    return np.asarray(cost)


def _specials(layout: Layout, running: tuple[Floats, Floats], out: tuple[Floats, Floats]) -> None:
    """Starts that are no edge's: at the ready time, and so that the run ends at its deadline."""
    shapes = layout.shapes
    for at in (shapes.ready, shapes.due - shapes.run):
        some = np.flatnonzero(np.isfinite(at) & (at >= shapes.ready) & (at > 0))
        if not len(some):
            continue
        start = at[some]
        cost = per_device(layout, some, start, running)
        better = cost < out[0][some]
        out[0][some[better]] = cost[better]
        out[1][some[better]] = start[better]


def per_device(layout: Layout, shape: Counts, start: Floats, running: tuple[Floats, Floats]) -> Floats:
    """What one device of each shape costs when it starts then, its machine left out."""
    shapes, (value, slope) = layout.shapes, running
    pool, finish = shapes.pool[shape], start + shapes.run[shape]
    late = np.maximum(0.0, finish - shapes.due[shape])
    return np.asarray(
        layout.at(value, slope, pool, finish)
        - layout.at(value, slope, pool, start)
        + shapes.waiting[shape] * start
        + shapes.late[shape] * late
        + shapes.late_fixed[shape] * (late > _ON_TIME_S)
    )
