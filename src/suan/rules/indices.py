"""What the state keeps beside its runs so that decisions need not walk them all. Only `evolve` calls this."""

from suan.grid.job import Priority, Run, is_flexible
from suan.grid.state import State


def open_run(state: State, run: Run) -> None:
    """A run was placed: it holds devices from now on."""
    task = state.jobs[run.job].task
    state.open_runs.setdefault(run.site, {})[run.id] = None
    state.runs_to_order.setdefault(run.site, {})[run.id] = None
    if is_flexible(task):
        state.flexible_runs[run.id] = None
    if task.priority == Priority.VALLEY:
        state.valley_runs[run.id] = None
    _count_devices(state, run, +1)


def close_run(state: State, run: Run) -> None:
    """A run has ended: its devices are free."""
    state.open_runs[run.site].pop(run.id)
    state.runs_to_order.get(run.site, {}).pop(run.id, None)
    state.flexible_runs.pop(run.id, None)
    state.valley_runs.pop(run.id, None)
    _count_devices(state, run, -1)


def _count_devices(state: State, run: Run, sign: int) -> None:
    pool = (run.site, run.pool)
    state.used_devices[pool] = state.used_devices.get(pool, 0) + sign * run.devices
    share = (run.tenant, run.accelerator)
    state.tenant_devices[share] = state.tenant_devices.get(share, 0) + sign * run.devices
