"""Rules with one thing wrong each, made in memory: a line of source is changed, compiled, and put into the
very functions that everybody has imported.

Knows source text and code objects. Which checks notice is `test_mutants.py`.
"""

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import NamedTuple


class Patch(NamedTuple):
    """One change of one module's source; `old` occurs in it once."""

    module: str
    old: str
    new: str


class Mutant(NamedTuple):
    name: str
    patches: tuple[Patch, ...]


def one(name: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(name, (Patch(module, old, new),))


_NO_AUDIT = Patch("audit", "    return tuple(objections)", "    return ()")

MUTANTS = (
    # devices
    Mutant(
        "audit off, one device too many",
        (
            _NO_AUDIT,
            Patch("supply", "free = pool.devices - state", "free = 1 + pool.devices - state"),
            Patch("supply", "if devices > self.free:", "if devices > self.free + 1:"),
        ),
    ),
    Mutant(
        "stopping devices count as free",
        (
            _NO_AUDIT,
            Patch(
                "supply",
                "free = pool.devices - state.used_devices.get((site.name, pool.name), 0)",
                "free = pool.devices - sum(state.runs[r].devices for r in state.open_runs.get(site.name, ())"
                " if state.runs[r].pool == pool.name and not state.runs[r].stop_reason)",
            ),
        ),
    ),
    one(
        "a release is forgotten", "indices", "_count_devices(state, run, -1)", "_count_devices(state, run, 0)"
    ),
    Mutant(
        "a placement takes nothing from the plan's supply",
        (_NO_AUDIT, Patch("supply", "self.free -= devices", "self.free -= 0")),
    ),
    Mutant("a gang is split", (_NO_AUDIT, Patch("bids", "devices=per_node * nodes,", "devices=per_node,"))),
    # limits
    Mutant(
        "quotas are ignored",
        (_NO_AUDIT, Patch("quota", "if found is None or need <= found[0]:", "if True:")),
    ),
    Mutant(
        "lend limits are ignored",
        (
            _NO_AUDIT,
            Patch("quota", "max(0, subtree[at] - lend) if lend is not None else 0", "0"),
        ),
    ),
    Mutant(
        "borrow limits are ignored",
        (
            _NO_AUDIT,
            Patch("quota", "            if borrow is not None:\n", "            if False:\n"),
        ),
    ),
    one(
        "a budget is promised twice",
        "decide",
        "cycle.promised[job.tenant] +=",
        "cycle.promised[job.tenant] += 0 *",
    ),
    one("max_cost is ignored", "budget", "if limit is not None and billed > limit:", "if False:"),
    one(
        "an elastic job grows beyond its quota",
        "elastic",
        "room = quotas.available(run.tenant, run.accelerator)",
        "room = None",
    ),
    # turns
    one(
        "worth has the wrong sign",
        "order",
        "return (rank, over_share, -worth,",
        "return (rank, over_share, worth,",
    ),
    one(
        "jobs alike see room that others took",
        "bids",
        "if one.offer.supply.can_start(one.offer.devices, now_s, one.run_s)]",
        "if True]",
    ),
    one("nobody starves by the list", "order", "if now_s - since_s < policy.starvation_s:", "if True:"),
    one(
        "nobody holds a reservation",
        "supply",
        "if self.reserved_at_s is None:\n            freed",
        "if False:\n            freed",
    ),
    one("reservations are not heeded", "supply", "return devices <= self.spare_at_s", "return True"),
    one("valley jobs do not age", "order", "if rank == _RANK[Priority.VALLEY]:", "if False:"),
    one("shares do not count", "turns", "float(is_over)", "0.0"),
    one(
        "priority classes do not count",
        "order",
        "return (rank, over_share, -worth,",
        "return (0, over_share, -worth,",
    ),
    one(
        "deadlines in the reverse order",
        "order",
        "pressing = math.exp(-max(0.0, slack_s) / policy.urgency_s)",
        "pressing = 1 - math.exp(-max(1.0, slack_s) / policy.urgency_s)",
    ),
    # money
    one("waiting costs nothing", "quote", "round(felt_s / HOUR_S", "round(0 * felt_s / HOUR_S"),
    one("lateness costs nothing", "quote", "late=round(late),", "late=0,"),
    one(
        "tariffs are an hour late",
        "quote",
        "hour_rates(tariff, first_hour - 1",
        "hour_rates(tariff, first_hour - 2",
    ),
    one(
        "PUE is dropped from quotes",
        "quote",
        "pue = tariff.pue if tariff else 1.0\n    gco2",
        "pue = 1.0\n    gco2",
    ),
    one("carbon is dropped from quotes", "quote", "carbon=round(gco2 / 1000", "carbon=round(0 * gco2 / 1000"),
    one("PUE is dropped from bills", "settle", "pue = tariff.pue if tariff else 1.0", "pue = 1.0"),
    one(
        "scarcity counts twice",
        "bids",
        "return round(self.offer.devices * per_device)",
        "return round(2 * self.offer.devices * per_device)",
    ),
    one(
        "a span of scarce hours has the wrong sign",
        "scarcity",
        "return found.upto(end_s) - found.upto(start_s)",
        "return found.upto(start_s) - found.upto(end_s)",
    ),
    one(
        "nobody waits for a cheaper hour",
        "bids",
        "found = turning_points(setting.tariff, soonest_s, until_s, run_s)",
        "found = []",
    ),
    one("entries have one side", "settle", "return (*entries, paid)", "return (*entries,)"),
    Mutant(
        "ends are settled twice",
        (
            Patch(
                "settle",
                "return _balanced(run.id, payer, lines,",
                "return 2 * _balanced(run.id, payer, lines,",
            ),
        ),
    ),
    # stops
    one(
        "runs are stopped before the minimum",
        "preempt",
        "standing.now_s - run.started_at_s < standing.policy.min_run_s",
        "standing.now_s - run.started_at_s < 0",
    ),
    Mutant(
        "valley stops standard",
        (
            Patch("stopping", "if job.task.priority != Priority.VALLEY]", "]"),
            Patch(
                "preempt",
                "mine = _RANK[case.claim.job.task.priority]\n"
                "    if mine == _RANK[Priority.VALLEY]:\n        return []",
                "mine = 0",
            ),
            Patch("preempt", "mine = _RANK[case.claim.job.task.priority]\n", "mine = 0\n"),
        ),
    ),
    one(
        "the dearest victims",
        "preempt",
        "[(one.devices, one.microyuan) for one in others]",
        "[(one.devices, -one.microyuan) for one in others]",
    ),
    one("nobody is stopped for others", "stopping", "if not claims or", "if claims or"),
    one(
        "nobody pauses",
        "leave",
        "if saved <= policy.pause_margin_ratio * max(0.0, stay[number] - machine):",
        "if True:",
    ),
    # data
    one(
        "the dearest replica", "move", "key=lambda m: (m.cost_microyuan,", "key=lambda m: (-m.cost_microyuan,"
    ),
    one(
        "data are believed there",
        "move",
        "if site in state.replicas.get(artifact.id, {}) or",
        "if artifact.id in state.replicas or",
    ),
    # forecasts
    one(
        "forecasts are nought",
        "cycle",
        "        return max(1, round(length_s / self.pace(job, supply, nodes)))",
        "        return 1",
    ),
)


def apply(mutant: Mutant) -> contextlib.AbstractContextManager[None]:
    """The mutant holds inside the `with`, and not after it."""
    by_module: dict[str, list[Patch]] = {}
    for patch in mutant.patches:
        by_module.setdefault(f"suan.rules.{patch.module}", []).append(patch)
    return _applied(by_module)


@contextlib.contextmanager
def _applied(by_module: dict[str, list[Patch]]) -> Iterator[None]:
    before: list[tuple[FunctionType, CodeType]] = []
    try:
        for name, patches in by_module.items():
            module = importlib.import_module(name)
            text = inspect.getsource(module)
            for patch in patches:
                assert text.count(patch.old) == 1, f"{name} has {text.count(patch.old)} times {patch.old!r}"
                text = text.replace(patch.old, patch.new)
            before.extend(_replaced(module, text))
        yield
    finally:
        for function, code in before:
            function.__code__ = code


def _replaced(module: ModuleType, text: str) -> Iterator[tuple[FunctionType, CodeType]]:
    """Puts the code of another source into the module's functions; yields each with what it had before."""
    made = ModuleType(module.__name__)
    exec(compile(text, f"<mutant of {module.__name__}>", "exec"), made.__dict__)
    changed = _functions(made)
    for name, function in _functions(module).items():
        code = changed[name].__code__
        if (code.co_code, code.co_consts, code.co_names) != _essence(function.__code__):
            yield function, function.__code__
            function.__code__ = code


def _essence(code: CodeType) -> tuple[bytes, tuple[object, ...], tuple[str, ...]]:
    return code.co_code, code.co_consts, code.co_names


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """Functions and methods that were written in the module, by qualified name."""
    found: dict[str, FunctionType] = {}
    for name, value in vars(module).items():
        if getattr(value, "__module__", "") != module.__name__:
            continue
        members = vars(value) if inspect.isclass(value) else {name: value}
        for member, inner in members.items():
            inner = inner.fget if isinstance(inner, property) else getattr(inner, "__func__", inner)
            if isinstance(inner, FunctionType) and inner.__module__ == module.__name__:
                found[f"{name}.{member}"] = inner
    return found
