"""What the performance model has said of a job on a pool's nodes, set right by what runs there really took.

Knows the state's estimates and how a site's own factor is learnt from runs that have ended. Knows no prices,
and nothing of how the model comes to its answers: that is `estimate/`, and its answers are facts.
"""

import math
from collections.abc import Mapping

from msgspec.structs import replace

from suan.grid.history import Factor
from suan.grid.job import EndCause, Job, Reason, Run, Task
from suan.grid.site import Pool
from suan.grid.state import State
from suan.grid.work import Estimate, Estimates, Work, place_name
from suan.rules.scaling import allowed_nodes, speed

METERED_LOG_SPREAD = 0.1  # of ln(metered / predicted) of one run around its site's own factor; assumed
LEAST_LOG_SPREAD = 0.05  # of a prediction: nothing is foretold better, whatever its interval says
QUANTILE_90 = 1.645  # of a normal distribution: nine of ten lie within so many spreads on both sides
_OUTLIER_SPREADS = 3.0  # what is further off counts as if it were so far off
MEMORY = "model_memory"


def estimate(state: State, job: Job, where: tuple[str, Pool], nodes: int) -> Estimate | None:
    """The job's whole work on so many nodes of a site's pool, as that site is known to run it; None where the
    model knows nothing.
    """
    raw, factor = _predicted(state, job, where[1], nodes), _factor(state, job, where)
    if raw is None or factor is None or not raw.run_s:
        return raw
    times = math.exp(factor.log_mean)
    wide = math.exp(QUANTILE_90 * math.hypot(math.sqrt(factor.log_variance), METERED_LOG_SPREAD))
    run_s = raw.run_s * times
    return replace(
        raw,
        run_s=run_s,
        low_s=max(raw.low_s * times, run_s / wide),
        high_s=min(raw.high_s * times, run_s * wide),
        kwh=raw.kwh * times,
        site_factor=times,
        site_runs=factor.runs,
    )


def seconds(state: State, job: Job, where: tuple[str, Pool], nodes: int) -> float | None:
    """`estimate`'s seconds alone; None where the model knows nothing, and for a service."""
    raw = _predicted(state, job, where[1], nodes)
    if raw is None or not raw.run_s:
        return None
    factor = _factor(state, job, where)
    return raw.run_s if factor is None else raw.run_s * math.exp(factor.log_mean)


def unit_s(state: State, job: Job) -> float | None:
    """How long the job's work counts where the speed is 1; None where the model knows nothing of it."""
    known = state.works.get(job.work) if job.work else None
    return known.unit_s if known is not None and known.unit_s else None


def unfit(known: Estimates | None, task: Task, pool: Pool) -> Reason | None:
    """Why the model does not fit on any number of the pool's nodes that the task allows; None where it does,
    or nothing is known.
    """
    if known is None:
        return None
    found = [
        (nodes, said)
        for nodes in allowed_nodes(task)
        if nodes <= pool.nodes and (said := _on(known, task, pool.accelerator, nodes)) is not None
    ]
    if not found or any(said.fits for _, said in found):
        return None
    nodes, best = min(found, key=lambda row: row[1].least_gib)
    devices = nodes * _devices_a_node(task, pool.accelerator)
    return Reason(
        code=MEMORY,
        text=f"the model needs at least {best.least_gib:.1f} GiB a device on {devices:,} {pool.accelerator},"
        f" {best.capacity_gib:.1f} can be used",
        need=round(best.least_gib, 1),
        have=round(best.capacity_gib, 1),
        unit="GiB a device",
        help="ask for more devices, another kind, or sharding: fsdp in training",
    )


def fits_on(state: State, job: Job, pool: Pool, nodes: int) -> bool:
    """Whether the model fits on so many nodes, as far as anybody knows."""
    raw = _predicted(state, job, pool, nodes)
    return raw is None or raw.fits


def _predicted(state: State, job: Job, pool: Pool, nodes: int) -> Estimate | None:
    known = state.works.get(job.work) if job.work else None
    return None if known is None else _on(known, job.task, pool.accelerator, nodes)


def _on(known: Estimates, task: Task, accelerator: str, nodes: int) -> Estimate | None:
    """As the model says; an elastic task's own table of speeds is believed over it."""
    devices = _devices_a_node(task, accelerator)
    if task.elastic is None or not task.elastic.speed or nodes == task.num_nodes:
        return known.on.get(place_name(accelerator, devices, nodes))
    own, there = (known.on.get(place_name(accelerator, devices, n)) for n in (task.num_nodes, nodes))
    if own is None or there is None:
        return there
    ratio = 1 / speed(task, nodes)
    return replace(there, run_s=own.run_s * ratio, low_s=own.low_s * ratio, high_s=own.high_s * ratio)


def _devices_a_node(task: Task, accelerator: str) -> int:
    """As the task asks: of the kind, or of CPU cores, which no kind is named for."""
    named = next((one.devices for one in task.resources if one.accelerator == accelerator), 0)
    return named or next((one.devices for one in task.resources if not one.accelerator), 0)


# ---------------------------------------------------------------- what sites teach


def _factor(state: State, job: Job, where: tuple[str, Pool]) -> Factor | None:
    return state.history.factors.get((where[0], where[1].name, job.task.recipe))


def learn_factor(state: State, run: Run) -> None:
    """Corrects the factor of a run's pool and recipe, when it has done all of its job's work by itself.

    The factor is the mean of a normal posterior over ln(metered / predicted). Its prior is nought, as wide as
    the prediction's own interval: far from what the model was fitted on, the first runs count for nearly all.
    """
    job, site = state.jobs[run.job], state.sites.get(run.site)
    pool = site.pools.get(run.pool) if site is not None else None
    if pool is None or run.cause != EndCause.EXITED or run.exit_code or job.runs != (run.id,):
        return
    said = _predicted(state, job, pool, run.nodes)
    if said is None or not said.run_s or run.started_at_s is None or run.ended_at_s is None:
        return
    key = (run.site, run.pool, job.task.recipe)
    before = state.history.factors.get(key) or Factor(0.0, _spread(said) ** 2, 0)
    noise = METERED_LOG_SPREAD**2
    surprise = math.log(max(1, run.ended_at_s - run.started_at_s) / said.run_s) - before.log_mean
    limit = _OUTLIER_SPREADS * math.sqrt(before.log_variance + noise)
    gain = before.log_variance / (before.log_variance + noise)
    state.history.factors[key] = Factor(
        before.log_mean + gain * max(-limit, min(limit, surprise)),
        before.log_variance * (1 - gain),
        before.runs + 1,
    )


def _spread(said: Estimate) -> float:
    """Of ln(true / predicted), by the prediction's own interval."""
    if not 0 < said.low_s < said.high_s:
        return LEAST_LOG_SPREAD
    return max(LEAST_LOG_SPREAD, math.log(said.high_s / said.low_s) / (2 * QUANTILE_90))


def merged(before: Estimates | None, work: Work, on: Mapping[str, Estimate]) -> Estimates:
    """What was known and what is new, the new where both speak of the same nodes."""
    whole = {**(before.on if before is not None else {}), **on}
    unit_s = min((said.run_s for said in whole.values() if said.fits and said.run_s), default=0.0)
    return Estimates(work=work, on=whole, unit_s=unit_s)
