"""When a run whose job has a deadline rests: by the cheapest hours in which its work can be done in time.

It stops only just after it has written a checkpoint, at the one that costs least, and its job starts again
when a cheaper hour begins. Knows one run; what hours cost is `ahead.py`, which are best `hours.py`.
"""

from suan.grid.action import StopRun
from suan.grid.job import Run
from suan.grid.state import State
from suan.grid.units import duration_text, yuan_text
from suan.rules.ahead import hours_ahead, run_left_s
from suan.rules.hours import Hours
from suan.rules.policy import Policy
from suan.rules.progress import CHECKPOINT_SLACK_S, after_checkpoint_s
from suan.rules.stops import PAUSED, stop_reason


def rest(state: State, policy: Policy, now_s: int, run: Run) -> tuple[StopRun | None, int | None]:
    """(the stop of a run that should rest from now on, when to look again if it goes on)."""
    job = state.jobs[run.job]
    task, site = job.task, state.sites[run.site]
    assert task.deadline_s is not None and task.checkpoint is not None
    left_s, spare_s = run_left_s(state, policy, run, now_s)
    due_s = job.submitted_at_s + task.deadline_s - spare_s
    hours = hours_ahead(state, policy, (site, site.pools[run.pool]), now_s, left_s=left_s, due_s=due_s)
    rests_s = hours.rests_s(now_s, left_s) if hours is not None else None
    if hours is None or rests_s is None:
        return None, None
    every_s = max(CHECKPOINT_SLACK_S, task.checkpoint.every_s)
    at_s = after_checkpoint_s(job, run, now_s)
    if at_s > now_s or rests_s - now_s >= every_s:  # the last checkpoint before it rests, or the next
        return None, max(now_s + 1, at_s + max(0, rests_s - at_s) // every_s * every_s)
    stay, pause = hours.through(now_s, left_s), hours.rest(now_s, left_s)
    if pause >= stay * (1 - policy.pause_margin_ratio) or pause >= _after_next(hours, now_s, left_s, every_s):
        return None, now_s + every_s
    until_s = hours.resumes_s(now_s, left_s)
    text = (
        f"power and scarcity would cost {yuan_text(round(run.devices * stay))} to its end,"
        f" {yuan_text(round(run.devices * pause))} in better hours, from {duration_text(until_s - now_s)} on;"
        " until its deadline its waiting counts as free"
    )
    return StopRun(run=run.id, why=stop_reason(PAUSED, job, text)), None


def _after_next(hours: Hours, now_s: int, left_s: float, every_s: int) -> float:
    """The least that is left to pay by one that runs until its next checkpoint."""
    if left_s <= every_s:
        return hours.through(now_s, left_s)
    then_s, to_go_s = now_s + every_s, left_s - every_s
    first = hours.through(now_s, every_s)
    return first + min(hours.run(then_s, to_go_s), hours.rest(then_s, to_go_s))
