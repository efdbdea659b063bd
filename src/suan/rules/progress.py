"""How much of a job's work is done and where it is kept: checkpoints stay at the site that wrote them.

Reads a job's runs and its checkpoint's interval. What a run did since its last checkpoint counts as lost,
however it ended: a grace of seconds saves a small model, and nobody knows which are small. Times are of a
clock, work is in seconds at speed 1 on the task's own number of nodes.
"""

from suan.grid.job import Job, Run
from suan.grid.site import Pool
from suan.grid.state import State
from suan.rules.estimates import seconds, unit_s
from suan.rules.policy import Policy
from suan.rules.scaling import speed

WRITTEN_AFTER_S = 30  # a checkpoint that is due should have been written by then
CHECKPOINT_SLACK_S = 120  # so long after it was due nearly nothing is lost yet


def run_speed(state: State, run: Run) -> float:
    """Seconds of work that the run does in a second."""
    site, job = state.sites.get(run.site), state.jobs[run.job]
    pool = site.pools.get(run.pool) if site is not None else None
    return speed(job.task, run.nodes) if pool is None else pace(state, job, (run.site, pool), run.nodes)


def pace(state: State, job: Job, where: tuple[str, Pool], nodes: int) -> float:
    """Seconds of the job's work that a second does on so many nodes of a site's pool: by the performance
    model, and where that knows nothing by the pool's and the job's own ratios.

    An estimated job on a pool that the model knows nothing of takes as long there as its task says.
    """
    plain = where[1].speed_ratio * speed(job.task, nodes)
    whole_s = unit_s(state, job)
    if whole_s is None:
        return plain
    there_s = seconds(state, job, where, nodes)
    if there_s is None:
        there_s = (job.task.duration_s or whole_s) / plain
    return whole_s / there_s


def since_checkpoint_s(job: Job, run: Run, at_s: int) -> int:
    """Seconds of the run that would be lost if it ended at a moment: back to its last checkpoint, or to its
    start where it has none.
    """
    if run.started_at_s is None:
        return 0
    elapsed_s = max(0, at_s - run.started_at_s)
    every_s = job.task.checkpoint.every_s if job.task.checkpoint is not None else 0
    return elapsed_s % every_s if every_s > 0 else elapsed_s


def after_checkpoint_s(job: Job, run: Run, now_s: int) -> int:
    """The next moment just after a checkpoint of a run that has started; now, when that is what it is."""
    since_s = since_checkpoint_s(job, run, now_s)
    every_s = job.task.checkpoint.every_s if job.task.checkpoint is not None else 0
    if WRITTEN_AFTER_S <= since_s <= CHECKPOINT_SLACK_S or every_s <= CHECKPOINT_SLACK_S:
        return now_s
    if since_s < WRITTEN_AFTER_S and now_s - since_s > (run.started_at_s or 0):
        return now_s - since_s + WRITTEN_AFTER_S  # it is being written
    return now_s - since_s + every_s + WRITTEN_AFTER_S


def left_s(run: Run, now_s: int) -> int:
    """Seconds that a run has to go; one that is overdue as long again as it has run."""
    if run.expected_end_s > now_s:
        return run.expected_end_s - now_s
    return max(60, now_s - (run.started_at_s or now_s))


def saved_s(state: State, job: Job) -> dict[str, float]:
    """Site -> seconds of the job's work that its checkpoints there hold."""
    saved: dict[str, float] = {}
    checkpoint = job.task.checkpoint
    if checkpoint is None or checkpoint.every_s <= 0:
        return saved
    for run in (state.runs[name] for name in job.runs):
        if run.started_at_s is None or run.ended_at_s is None:
            continue
        kept_s = (run.ended_at_s - run.started_at_s) // checkpoint.every_s * checkpoint.every_s
        if kept_s > 0:
            saved[run.site] = saved.get(run.site, 0.0) + kept_s * run_speed(state, run)
    return saved


def checkpoint_site(state: State, job: Job) -> str:
    """The site that holds the most of the job's work; "" when none holds any."""
    saved = saved_s(state, job)
    return min(saved, key=lambda site: (-saved[site], site), default="")


def remaining_s(
    state: State, job: Job, where: tuple[str, Pool], policy: Policy, *, length_s: float, nodes: int = 0
) -> int:
    """Seconds that the rest of the job takes in a pool of a site, of `length_s` in all at speed 1: what the
    site holds need not be done again, but takes a while to restore. On its own number of nodes where `nodes`
    is 0.
    """
    done_s = saved_s(state, job).get(where[0], 0.0) if job.runs else 0.0
    restore_s = policy.restore_s if done_s > 0 else 0
    rest_s = max(0.0, length_s - done_s) / pace(state, job, where, nodes or job.task.num_nodes)
    return max(1, round(rest_s) + restore_s)
