"""Jobs that run on more nodes or fewer: how long each size takes, and which runs should change theirs.

A size is weighed by what its devices cost and are worth until the job ends, and by what its tenant loses by
an end that comes later. A run changes its size just after a checkpoint, by being stopped and placed again.
Knows what is free. Does not place anything, and does not know who else waits: that is in the prices.
"""

from dataclasses import dataclass
from math import inf

from suan.grid.action import StopRun
from suan.grid.job import Job, Priority, Run, RunPhase, Task
from suan.grid.site import Pool, SitePhase
from suan.grid.state import State
from suan.grid.units import duration_text, yuan_text
from suan.rules.estimates import fits_on
from suan.rules.policy import Policy
from suan.rules.progress import after_checkpoint_s, left_s, pace, run_speed, since_checkpoint_s
from suan.rules.quota import Quotas
from suan.rules.scaling import allowed_nodes, speed
from suan.rules.stops import RESIZED, cost_per_s, delay_microyuan, stop_reason


def node_counts(task: Task, pool: Pool) -> tuple[tuple[int, float], ...]:
    """(nodes, how long it runs on them against its own number of nodes), of all that fit into the pool."""
    return tuple((nodes, 1 / speed(task, nodes)) for nodes in allowed_nodes(task) if nodes <= pool.nodes)


@dataclass(frozen=True, slots=True)
class Resizing:
    """The runs that should stop to come back at another size, on how many nodes, and when to ask again."""

    stops: tuple[StopRun, ...] = ()
    nodes: dict[str, int] | None = None  # job -> the nodes that it should come back on
    wake_at_s: int | None = None


def resize(
    state: State,
    policy: Policy,
    now_s: int,
    *,
    free: dict[tuple[str, str], int],
    quotas: Quotas,
    planned: frozenset[str] = frozenset(),
) -> Resizing:
    """Runs whose rest costs less at another size, with the restart and what is done again.

    `free` devices of each (site, pool) are those that nobody else is to have; each is promised once.
    `planned` runs stop anyway.
    """
    stops: list[StopRun] = []
    nodes: dict[str, int] = {}
    wakes: list[int] = []
    left = dict(free)
    for site in state.sites.values():
        if site.phase != SitePhase.READY:
            continue
        for run in (state.runs[name] for name in state.open_runs.get(site.name, {})):
            job = state.jobs[run.job]
            if run.id in planned or not _may_change(job, run):
                continue
            old_s = (run.started_at_s or now_s) + policy.resize_after_s
            if old_s > now_s:
                wakes.append(old_s)
                continue
            pool = (site.name, run.pool)
            room = quotas.available(run.tenant, run.accelerator)
            most = run.devices + min(max(0, left.get(pool, 0)), inf if room is None else room)
            found = _better(state, policy, now_s, (job, run, site.pools[run.pool], most))
            if found is None:
                continue
            count, text = found
            due_s = after_checkpoint_s(job, run, now_s)
            if due_s > now_s:
                wakes.append(due_s)
                continue
            more = (count - run.nodes) * (run.devices // run.nodes)
            left[pool] = left.get(pool, 0) - max(0, more)
            quotas = quotas.with_use(run.tenant, run.accelerator, more)
            nodes[job.id] = count
            stops.append(StopRun(run=run.id, why=stop_reason(RESIZED, job, text)))
    return Resizing(stops=tuple(stops), nodes=nodes, wake_at_s=min(wakes, default=None))


def _may_change(job: Job, run: Run) -> bool:
    task = job.task
    if task.elastic is None or task.replicas is not None or task.checkpoint is None:
        return False
    if task.priority == Priority.ONLINE or run.phase != RunPhase.RUNNING or run.stop_reason:
        return False
    return run.started_at_s is not None


def _better(
    state: State, policy: Policy, now_s: int, about: tuple[Job, Run, Pool, float]
) -> tuple[int, str] | None:
    """(nodes, why) of the size at which the rest of the run costs least; None when that is its own, or hardly
    dearer.
    """
    job, run, pool, most_devices = about
    per_node = run.devices // run.nodes
    rest_s = left_s(run, now_s)
    device_s = cost_per_s(state, run, now_s) / run.devices
    own_pace = run_speed(state, run)

    def cost(nodes: int, takes_s: float) -> float:
        delay = delay_microyuan(state, policy, job, end_s=now_s, delay_s=takes_s)
        return takes_s * device_s * nodes * per_node + delay

    stay = cost(run.nodes, rest_s)
    best, best_s, least = run.nodes, float(rest_s), stay
    again_s = since_checkpoint_s(job, run, max(now_s, after_checkpoint_s(job, run, now_s)))
    for nodes, _ in node_counts(job.task, pool):
        if nodes * per_node > most_devices or nodes == run.nodes or not fits_on(state, job, pool, nodes):
            continue
        there = pace(state, job, (run.site, pool), nodes)
        takes_s = (rest_s + again_s) * own_pace / there + policy.restore_s
        if (price := cost(nodes, takes_s)) < least:
            best, best_s, least = nodes, takes_s, price
    if stay - least <= policy.resize_margin_ratio * stay:
        return None
    text = (
        f"{best} nodes instead of {run.nodes}: it ends in {duration_text(round(best_s))} instead of"
        f" {duration_text(rest_s)} and costs {yuan_text(round(least))} instead of {yuan_text(round(stay))}"
    )
    return best, text
