"""A second opinion on a plan. Shares no code with `decide`: it recounts from the state what the plan would
do.

Looks for what must never happen. Does not judge whether a plan is good.
"""

from suan.grid.action import EndJob, MoveArtifact, PlaceRun, Plan, StopRun
from suan.grid.job import TERMINAL_PHASES, RunPhase
from suan.grid.state import State
from suan.rules.audit_quota import audit_quota


def audit(state: State, plan: Plan) -> tuple[str, ...]:
    """Every objection to the plan; empty when it may be carried out."""
    objections: list[str] = []
    used = _used_devices(state, plan)
    placed: set[str] = set()
    for action in plan.actions:
        match action:
            case PlaceRun():
                objections.extend(_placement(state, plan, action, used, placed))
                placed.add(action.job)
                pool = (action.bid.site, action.bid.pool)
                used[pool] = used.get(pool, 0) + action.bid.devices
            case MoveArtifact():
                objections.extend(_movement(state, action))
            case StopRun():
                if action.run not in state.runs:
                    objections.append(f"stops {action.run}, which does not exist")
            case EndJob():
                job = state.jobs.get(action.job)
                if job is None or job.phase in TERMINAL_PHASES:
                    objections.append(f"ends {action.job}, which is not there to end")
                elif any(state.runs[run].phase != RunPhase.ENDED for run in job.runs):
                    objections.append(f"ends {action.job} while a run of it may be going on")
    objections.extend(audit_quota(state, plan))
    return tuple(objections)


def _used_devices(state: State, plan: Plan) -> dict[tuple[str, str], int]:
    """Devices of open runs in each pool of the sites at which the plan places anything, counted anew: not as
    `evolve` keeps them.
    """
    used: dict[tuple[str, str], int] = {}
    for site in dict.fromkeys(action.bid.site for action in plan.actions if isinstance(action, PlaceRun)):
        for run_id in state.open_runs.get(site, ()):
            run = state.runs[run_id]
            pool = (run.site, run.pool)
            used[pool] = used.get(pool, 0) + run.devices
    return used


def _placement(
    state: State, plan: Plan, action: PlaceRun, used: dict[tuple[str, str], int], placed: set[str]
) -> list[str]:
    job, bid = state.jobs.get(action.job), action.bid
    if job is None:
        return [f"places {action.job}, which does not exist"]
    found = []
    if job.phase in TERMINAL_PHASES:
        found.append(f"places {job.id}, which has ended")
    if action.job in placed:
        found.append(f"places {job.id} twice")
    if any(state.runs[run].phase != RunPhase.ENDED for run in job.runs):
        found.append(f"places {job.id} while a run of it may be going on")
    if action.run in state.runs:
        found.append(f"{action.run} is taken")
    site = state.sites.get(bid.site)
    pool = site.pools.get(bid.pool) if site else None
    if site is None or pool is None:
        return [*found, f"places {job.id} at {bid.site}/{bid.pool}, which does not exist"]
    if site.phase != "ready":
        found.append(f"places {job.id} at {site.name}, which is {site.phase}")
    total = used.get((bid.site, bid.pool), 0) + bid.devices
    if total > pool.nodes * pool.devices_per_node:
        found.append(
            f"{bid.site}/{bid.pool} would hold {total} of {pool.nodes * pool.devices_per_node} devices"
        )
    if bid.start_s > plan.at_s:
        found.append(f"places {job.id} now, its bid starts {bid.start_s - plan.at_s} s later")
    for name, binding in job.inputs.items():
        if binding.from_job and not binding.from_output:
            if state.jobs[binding.from_job].phase != "succeeded":
                found.append(f"places {job.id} before {binding.from_job} has succeeded")
            continue
        artifact = action.inputs.get(name, "")
        if bid.site not in state.replicas.get(artifact, {}):
            found.append(f"places {job.id} at {bid.site} without its input {name} ({artifact or 'unknown'})")
    limit = job.task.max_cost_microyuan
    if limit is not None and bid.quote.billed_microyuan > limit:
        found.append(f"places {job.id} above its max_cost")
    return found


def _movement(state: State, action: MoveArtifact) -> list[str]:
    found = []
    artifact = state.artifacts.get(action.artifact)
    if artifact is None:
        return [f"moves {action.artifact}, which does not exist"]
    if action.source not in state.replicas.get(action.artifact, {}):
        found.append(f"moves {action.artifact} from {action.source}, which does not have it")
    linked = (action.source, action.destination) in state.links or "grid" in (
        action.source,
        action.destination,
    )
    if not linked:
        found.append(f"moves {action.artifact} from {action.source} to {action.destination} without a link")
    if artifact.rights.sites and action.destination not in artifact.rights.sites:
        found.append(f"moves {action.artifact} to {action.destination}, which its rights forbid")
    return found
