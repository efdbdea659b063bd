"""How much faster a job runs on more nodes: by its own table of speeds, else by a prior.

Knows node counts and ratios. Does not know pools' speeds, free devices or prices.
"""

from bisect import bisect_left

from suan.grid.job import Task

# The part of a node's work that does not get less with more nodes, when nobody has measured the job.
# Source: median over published pairs of runs of the same job, model and batch on one kind of device and
# different numbers of nodes (MLPerf Training 4.1 to 5.1, FlagPerf, ModelLink, Megatron SC'21); fitted by
# bench/elastic.py, November 2026.
SERIAL_PART = 0.04


def prior_speed(nodes: int) -> float:
    """How many times as fast as on one node, by Amdahl's law. Source: Amdahl, AFIPS 1967."""
    return nodes / (1 + SERIAL_PART * (nodes - 1))


def speed(task: Task, nodes: int) -> float:
    """How fast the task runs on so many nodes, against its own number of nodes.

    Between two entries of its table the speed is read off a straight line; beyond the table's ends it changes
    as the prior does from the nearest entry.
    """
    if nodes == task.num_nodes:
        return 1.0
    table = task.elastic.speed if task.elastic is not None else {}
    return _speed(table, nodes) / _speed(table, task.num_nodes)


def allowed_nodes(task: Task) -> tuple[int, ...]:
    """The numbers of nodes at which the task may run: its own alone, or all of an elastic one's range.

    Beyond sixteen only even steps of at most a quarter are listed: a bid for 37 nodes beside one for 36 tells
    nobody anything.
    """
    elastic = task.elastic
    if elastic is None or task.replicas is not None:
        return (task.num_nodes,)
    counts = {elastic.min_nodes: None, elastic.max_nodes: None, task.num_nodes: None}
    counts |= dict.fromkeys(
        nodes for nodes in elastic.speed if elastic.min_nodes <= nodes <= elastic.max_nodes
    )
    nodes = elastic.min_nodes
    while nodes < elastic.max_nodes:
        counts[nodes] = None
        nodes += max(1, nodes // 4 - nodes // 4 % 2) if nodes > 16 else 1
    return tuple(sorted(counts))


def least_nodes(task: Task) -> int:
    """The fewest nodes that the task may run on."""
    if task.elastic is None or task.replicas is not None:
        return task.num_nodes
    return min(task.elastic.min_nodes, task.num_nodes)


def _speed(table: dict[int, float], nodes: int) -> float:
    if not table:
        return prior_speed(nodes)
    known = sorted(table)
    place = bisect_left(known, nodes)
    if place < len(known) and known[place] == nodes:
        return table[nodes]
    if place in (0, len(known)):
        nearest = known[0] if place == 0 else known[-1]
        return table[nearest] * prior_speed(nodes) / prior_speed(nearest)
    low, high = known[place - 1], known[place]
    return table[low] + (table[high] - table[low]) * (nodes - low) / (high - low)
