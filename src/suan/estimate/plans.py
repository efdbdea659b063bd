"""The best parallel plan of a model on devices, and why it is the best.

Knows how to choose among legal plans by step time and memory: for one case in full, for many whose tables
left parts of the plan open, and for pools of several kinds of device together. Does not know prices or what
is free.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from suan.estimate.cases import Attention, Bools, Cases, Floats, Ints, Machines, Plans, Shapes
from suan.estimate.legal import OPEN, legal_plans, undominated
from suan.estimate.memory import Memory, memory_gib
from suan.estimate.outcome import estimate_training
from suan.estimate.training import Bound, StepTime, step_time
from suan.estimate.wan import Wan, change_bytes, ring_s

Found = TypeVar("Found", Memory, StepTime)

BLOCK = 40_000  # candidates estimated at once: 0.3 MB a column
CORRECTED = 200  # candidates that the residual is asked about

_SPENT_ON = {
    "gemm_s": "matrix multiplication",
    "attention_s": "attention",
    "memory_bound_s": "memory-bound kernels",
    "recompute_s": "recompute",
    "launch_s": "waiting for the host",
    "tp_comm_s": "tensor-parallel communication",
    "ep_comm_s": "expert-parallel communication",
    "cp_comm_s": "context-parallel communication",
    "pp_comm_s": "pipeline communication",
    "bubble_s": "pipeline bubble",
    "dp_comm_s": "data-parallel communication that computing does not hide",
    "optimizer_s": "the optimizer",
    "straggler_s": "stragglers",
    "data_s": "the step's fixed costs",
}
_BOUND = {
    Bound.COMPUTE: "compute",
    Bound.MEMORY: "memory",
    Bound.LAUNCH: "launch",
    Bound.NETWORK: "network",
    Bound.BUBBLE: "bubble",
    Bound.DATA: "data",
}


@dataclass(frozen=True, slots=True)
class Ranked:
    """Plans for one case, best first: what each takes and holds, and why it stands where it stands.

    Where no plan fits there is one, the one that holds least, and `considered` counts what was legal.
    """

    cases: Cases
    time: StepTime
    memory: Memory
    reasons: tuple[str, ...]
    legal: int  # plans that divide
    fitting: int  # of those, plans that fit with their margin


def bound_names(bound_by: Ints) -> list[str]:
    """`compute`, `memory`, `launch`, `network`, `bubble` or `data` for each case."""
    return [_BOUND[Bound(code)] for code in bound_by]


# ------------------------------------------------------------------ one case


def best_plans(
    case: Cases, *, given: Mapping[str, bool] | None = None, count: int = 5, residual: bool = True
) -> Ranked:
    """The `count` best plans for one case whose plan columns that are `given` stand. Empty when nothing
    divides.

    All are timed by mechanics; with `residual` the best of them are put in order by what measured runs
    taught.
    """
    plans = legal_plans(case, given)
    if not len(plans):
        return _ranked(case.take(np.array([], dtype=np.int64)), legal=0, fitting=0, residual=False)
    candidates = _under(case, plans)
    memory = _in_blocks(memory_gib, candidates)
    chosen = _eligible(plans, memory, "fits_with_margin", "fits_usually", "fits")
    fitting = int(memory.fits_with_margin.sum())
    kept = candidates.take(chosen)
    order = np.argsort(_in_blocks(step_time, kept).total_s, kind="stable")
    if residual:
        order = order[: max(CORRECTED, count)]
        order = order[np.argsort(estimate_training(kept.take(order)).step_time_s, kind="stable")]
    best = _distinct(kept.plans, order)[:count]
    return _ranked(kept.take(best), legal=len(plans), fitting=fitting, residual=residual)


def _eligible(plans: Plans, memory: Memory, *verdicts: str) -> Ints:
    """Positions worth timing: what fits by the first verdict by which something does, else the smallest."""
    for fits in (getattr(memory, verdict) for verdict in verdicts):
        if fits.any():
            return undominated(plans, fits)
    return np.array([int(np.argmin(memory.total))])


def _distinct(plans: Plans, order: Ints) -> Ints:
    """`order` without plans that differ from a better one in micro-batch, chunks, recompute or sharding
    alone.
    """
    layout = np.stack([getattr(plans, name)[order] for name in ("tp", "pp", "cp", "ep", "dp")], axis=1)
    _, first = np.unique(layout, axis=0, return_index=True)
    return order[np.sort(first)]


def _under(case: Cases, plans: Plans) -> Cases:
    """The one case under each of `plans`."""
    size = len(plans)
    return Cases(
        shapes=case.shapes.repeat(size),
        plans=plans,
        machines=case.machines.repeat(size),
        seq_len=np.repeat(case.seq_len, size),
        global_batch=np.repeat(case.global_batch, size),
    )


def _in_blocks(estimate: Callable[[Cases], Found], cases: Cases) -> Found:
    """What `estimate` says of all cases, block by block."""
    if len(cases) <= BLOCK:
        return estimate(cases)
    parts = [estimate(cases.take(slice(at, at + BLOCK))) for at in range(0, len(cases), BLOCK)]
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    return type(parts[0])(**columns)


# ------------------------------------------------------------------ why


def _ranked(cases: Cases, *, legal: int, fitting: int, residual: bool) -> Ranked:
    time = estimate_training(cases).parts if residual else step_time(cases)
    memory = memory_gib(cases)
    reasons = tuple(
        reason(time, memory, 0) if position == 0 else _behind(time, memory, position)
        for position in range(len(cases))
    )
    return Ranked(cases, time, memory, reasons, legal, fitting)


def reason(time: StepTime, memory: Memory, position: int) -> str:
    """What bounds the plan at that position; of one that does not fit, what it lacks."""
    if not memory.fits[position]:
        lacking = memory.least[position] - memory.capacity[position]
        held, capacity = memory.total[position], memory.capacity[position]
        return f"does not fit: {held:.1f} GiB of {capacity:.0f}, {lacking:.1f} short"
    parts = {name: float(seconds[position]) for name, seconds in time.parts().items()}
    total_s = float(time.total_s[position])
    largest = sorted(parts, key=lambda name: -parts[name])[:3]
    spent = ", ".join(f"{parts[name] / total_s:.0%} {_SPENT_ON[name]}" for name in largest)
    return f"{_BOUND[Bound(int(time.bound_by[position]))]}-bound: {spent}"


def _behind(time: StepTime, memory: Memory, position: int) -> str:
    """What a plan loses to the first; of one that does not fit, what it lacks."""
    if not memory.fits[position]:
        return reason(time, memory, position)
    parts = {name: seconds[position] for name, seconds in time.parts().items()}
    total_s = float(time.total_s[position])
    first = {name: seconds[0] for name, seconds in time.parts().items()}
    more = {name: parts[name] - first[name] for name in parts}
    worst = max(more, key=lambda name: more[name])
    behind = total_s / float(time.total_s[0]) - 1.0
    gained = min(more, key=lambda name: more[name])
    but = f", though {-more[gained]:.2f} s less {_SPENT_ON[gained]}" if more[gained] < -0.01 * total_s else ""
    return f"{behind:.1%} slower: {more[worst]:.2f} s more {_SPENT_ON[worst]}{but}"


# ------------------------------------------------------------------ many cases with parts of the plan open


def stated(table: Mapping[str, Sequence[str]], size: int) -> dict[str, Bools]:
    """Which plan columns each row of a table states. A row with a layout that is silent on the rest has none
    of it.
    """
    blank = [""] * size

    def filled(name: str) -> Bools:
        return np.array([bool(str(word).strip()) for word in table.get(name, blank)], dtype=bool)

    tp, pp = filled("tp"), filled("pp")
    return {
        "tp": tp,
        "pp": pp,
        "dp": filled("dp"),
        "cp": filled("cp") | tp,
        "ep": filled("ep") | tp,
        "vpp": filled("vpp") | pp,
        "micro_batch": filled("micro_batch"),
        "zero_stage": filled("zero_stage"),
        "recompute": filled("recompute"),
        "sequence_parallel": filled("seq_parallel"),
    }


def complete(cases: Cases, given: Mapping[str, Bools]) -> Cases:
    """The cases with the best values for what their plans leave open; equal cases are searched once.

    Sequence parallelism that is not stated is there wherever tensors are split and attention is fused: both
    came with the same generation of software.
    """
    split = (cases.plans.tp > 1) & (cases.plans.attention != Attention.UNFUSED)
    known = given.get("sequence_parallel", np.zeros(len(cases), dtype=bool))
    plans = cases.plans.with_columns(
        sequence_parallel=np.where(known, cases.plans.sequence_parallel, split).astype(np.int64)
    )
    cases = cases.with_plans(plans)
    stands = np.stack([given.get(name, np.zeros(len(cases), dtype=bool)) for name in OPEN], axis=1)
    open_rows = np.flatnonzero(~stands.all(axis=1))
    if not len(open_rows):
        return cases
    table = np.concatenate([_table(cases.take(open_rows)), stands[open_rows]], axis=1)
    _, first, same = np.unique(table, axis=0, return_index=True, return_inverse=True)
    found = [
        _completed(cases.take(open_rows[[row]]), dict(zip(OPEN, stands[open_rows[row]], strict=True)))
        for row in first
    ]
    whole = Plans.concat([cases.plans, *found])
    source = np.arange(len(cases))
    source[open_rows] = len(cases) + same.ravel()
    return cases.with_plans(whole.take(source))


def _completed(case: Cases, given: Mapping[str, bool]) -> Plans:
    """The case's plan, what is open chosen. As it was where nothing divides."""
    keep = {**given, "sequence_parallel": bool(given.get("tp"))}
    plans = legal_plans(case, keep)
    if not len(plans):
        return case.plans
    candidates = _under(case, plans)
    # Somebody ran it, near the edge as like as not: no margin is kept.
    chosen = _eligible(plans, _in_blocks(memory_gib, candidates), "fits_usually", "fits")
    if len(chosen) == 1:
        return plans.take(chosen)
    total_s = _in_blocks(step_time, candidates.take(chosen)).total_s
    return plans.take(chosen[[int(np.argmin(total_s))]])


def _table(cases: Cases) -> Floats:
    """Everything a case is, a row a case."""
    columns = [cases.seq_len, cases.global_batch]
    for part in (cases.shapes, cases.plans, cases.machines):
        columns += [getattr(part, f.name) for f in fields(part)]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


# ------------------------------------------------------------------ pools of several kinds together


@dataclass(frozen=True, slots=True)
class Share:
    """What one pool does of a step that several pools take together."""

    pool: int  # position
    sequences: int  # of the global batch
    plan: Cases  # one case
    step_s: float


def best_over_pools(
    case: Cases, pools: Machines, *, gbps_between: float, rtt_s: float = 0.0
) -> tuple[Share, ...]:
    """How pools of different kinds share a step: `best_alone`, then `share_step`."""
    return share_step(best_alone(case, pools), gbps_between=gbps_between, rtt_s=rtt_s)


def best_alone(case: Cases, pools: Machines) -> tuple[Share, ...]:
    """The whole step on each pool on which the model fits, under its best plan there; quickest first."""
    batch, alone = int(case.global_batch[0]), []
    for pool in range(len(pools)):
        ranked = best_plans(_on(case, pools.take(slice(pool, pool + 1))), count=1)
        if len(ranked.cases) and ranked.memory.fits[0]:
            alone.append(Share(pool, batch, ranked.cases, float(ranked.time.total_s[0])))
    return tuple(sorted(alone, key=lambda share: share.step_s))


def share_step(alone: Sequence[Share], *, gbps_between: float, rtt_s: float = 0.0) -> tuple[Share, ...]:
    """Each pool holds whole replicas of the model under its own plan, and gets sequences in proportion to its
    speed. The quickest pool alone where sharing is slower, which the link between them decides: over it they
    exchange one sum of gradients a step, in fp32.
    """
    best = tuple(alone[:1])
    for together in range(2, len(alone) + 1):
        shares = _shared(alone[:together])
        exchange_s = exchange_of(alone[:together], gbps_between=gbps_between, rtt_s=rtt_s)
        if slowest_s(shares) + exchange_s < slowest_s(best):
            best = tuple(replace(share, step_s=share.step_s + exchange_s) for share in shares)
    return best


def exchange_of(shares: Sequence[Share], *, gbps_between: float, rtt_s: float) -> float:
    """Seconds in which the pools sum the gradients of a step over the link between them."""
    sent = change_bytes(shares[0].plan.shapes.params)
    return float(ring_s(Wan.of(len(shares), gbps_between, rtt_s), sent)[0])


def slowest_s(shares: Sequence[Share]) -> float:
    """Seconds of the step; 0 where there is no share."""
    return max((share.step_s for share in shares), default=0.0)


def _on(case: Cases, machine: Machines) -> Cases:
    return Cases(case.shapes, case.plans, machine, case.seq_len, case.global_batch)


def _shared(alone: Sequence[Share]) -> tuple[Share, ...]:
    """The batch split in proportion to speed, in whole micro-batches of every rank; the fastest takes what is
    over.
    """
    batch = alone[0].sequences
    speed = np.array([1.0 / share.step_s for share in alone])
    grain = np.array([int(share.plan.plans.dp[0] * share.plan.plans.micro_batch[0]) for share in alone])
    parts = np.maximum(np.round(batch * speed / speed.sum() / grain), 1).astype(np.int64) * grain
    over = max(batch - int(parts[1:].sum()), 1)
    parts[0] = -(-over // grain[0]) * grain[0]
    shares = []
    for share, sequences in zip(alone, parts, strict=True):
        plan = share.plan
        part = Cases(plan.shapes, plan.plans, plan.machines, plan.seq_len, np.array([sequences]))
        shares.append(Share(share.pool, int(sequences), part, float(step_time(part).total_s[0])))
    return tuple(shares)


def one_case(shapes: Shapes, machines: Machines, *, seq_len: int, global_batch: int, **plan: int) -> Cases:
    """One case from one shape and one machine; `plan` are columns of Plans that stand."""
    return Cases(
        shapes=shapes,
        plans=Plans.filled(1, **plan),
        machines=machines,
        seq_len=np.array([seq_len], dtype=np.int64),
        global_batch=np.array([global_batch], dtype=np.int64),
    )
