"""What the state keeps beside its runs so that decisions need not walk them all. Only `evolve` calls this."""

from suan.grid.artifact import Transfer, TransferPhase
from suan.grid.job import Priority, Run, is_flexible
from suan.grid.site import Link
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


def add_replica(state: State, artifact: str, site: str, at_s: int) -> None:
    """A copy came to a site; one that was there stays as old as it is."""
    state.replicas.setdefault(artifact, {}).setdefault(site, at_s)
    state.held.setdefault(site, {})[artifact] = None
    state.nowhere.pop(artifact, None)


def remove_replica(state: State, artifact: str, site: str) -> None:
    """A copy has gone from a site."""
    state.held.get(site, {}).pop(artifact, None)
    replicas = state.replicas.get(artifact)
    if replicas is not None and replicas.pop(site, None) is not None and not replicas:
        state.nowhere[artifact] = None


def set_link(state: State, link: Link) -> None:
    """A link was declared or measured."""
    pair = (link.source, link.destination)
    state.links[pair] = link
    for site in pair:
        state.links_at.setdefault(site, {})[pair] = None


def open_transfer(state: State, transfer: Transfer) -> None:
    """A transfer was ordered, perhaps once more and from elsewhere."""
    if (before := state.transfers.get(transfer.id)) and before.phase == TransferPhase.ACTIVE:
        close_transfer(state, before)
    state.transfers[transfer.id] = transfer
    state.open_transfers[transfer.id] = None
    for site in (transfer.source, transfer.destination):
        state.transfers_at.setdefault(site, {})[transfer.id] = None


def close_transfer(state: State, transfer: Transfer) -> None:
    """A transfer has ended."""
    state.open_transfers.pop(transfer.id)
    for site in (transfer.source, transfer.destination):
        state.transfers_at[site].pop(transfer.id, None)


def _count_devices(state: State, run: Run, sign: int) -> None:
    pool = (run.site, run.pool)
    state.used_devices[pool] = state.used_devices.get(pool, 0) + sign * run.devices
    share = (run.tenant, run.accelerator)
    state.tenant_devices[share] = state.tenant_devices.get(share, 0) + sign * run.devices
