"""Which pools can run a task; for the others the Reason, with two numbers in one unit.

Looks at what a pool has in all, not at what is free now.
"""

from suan.grid.hardware import CPU_DEVICE_CLASS, accelerator
from suan.grid.job import Reason, Resources, Task
from suan.grid.site import Pool, Site, SitePhase
from suan.rules.scaling import least_nodes


def fit(task: Task, site: Site, pool: Pool) -> int | Reason:
    """The first of the task's resource alternatives that the pool can serve, else the nearest miss."""
    if reason := _place_reason(task, site):
        return reason
    best: Reason | None = None
    for index, resources in enumerate(task.resources):
        reason = _pool_reason(task, resources, pool)
        if reason is None:
            return index
        if best is None or best.code == "accelerator":
            best = reason
    assert best is not None, "a task has at least one resource alternative"
    return best


def _place_reason(task: Task, site: Site) -> Reason | None:
    place = task.place
    if site.name in place.not_sites or (site.region and site.region in place.not_sites):
        return Reason(code="place", text=f"the task excludes {site.name}", help="remove it from place.not")
    if (place.sites and site.name not in place.sites) or (place.regions and site.region not in place.regions):
        wanted = ", ".join((*place.sites, *place.regions))
        return Reason(
            code="place", text=f"the task runs only at {wanted}", help=f"add {site.name} to place.sites"
        )
    if site.phase in (SitePhase.FENCED, SitePhase.SILENT):
        return Reason(
            code="site_silent", text=f"{site.name} does not answer", help="look at its agent: suan sites"
        )
    if site.phase == SitePhase.DRAINING:
        return Reason(code="site_draining", text=f"{site.name} is draining and takes no new runs")
    return None


def _pool_reason(task: Task, resources: Resources, pool: Pool) -> Reason | None:
    kind = accelerator(pool.accelerator)
    if resources.accelerator and resources.accelerator != kind.name:
        return Reason(
            code="accelerator",
            text=f"has {kind.name}, the task asks for {resources.accelerator}",
            help=f"add {kind.name} to resources.any_of",
        )
    if not resources.accelerator and kind.device_class != CPU_DEVICE_CLASS:
        return Reason(
            code="accelerator",
            text=f"has {kind.name}, the task asks for CPU cores",
            help="name an accelerator",
        )
    comparisons = (
        ("devices_per_node", resources.devices, pool.devices_per_node, "devices a node"),
        ("nodes", least_nodes(task), pool.nodes, "nodes"),
        ("cpus", resources.cpus if resources.accelerator else 0, pool.cpus_per_node, "CPUs a node"),
        ("memory", resources.memory_gib, pool.memory_gib_per_node, "GiB a node"),
    )
    for code, need, have, unit in comparisons:
        if need > have and (have or code in ("devices_per_node", "nodes")):
            return Reason(
                code=code,
                text=f"needs {need:g} {unit}, the pool has {have:g}",
                need=need,
                have=have,
                unit=unit,
                help=f"ask for at most {have:g} {unit}",
            )
    return None
