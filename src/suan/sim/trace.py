"""A trace of jobs in CSV, plain or gzipped -> arrivals: what is submitted when.

Knows the columns and how a count of GPUs becomes nodes. A job's true duration travels in its environment,
where only
a simulated site reads it; the scheduler sees it when the policy is an oracle. Documented in
docs/reference/simulate.md.
"""

import csv
import gzip
import math
from pathlib import Path

import msgspec

from suan.grid.artifact import Artifact
from suan.grid.error import Refused
from suan.grid.hardware import CPU_DEVICE_CLASS, accelerator
from suan.grid.job import Checkpoint, Elastic, Priority, Resources, Task
from suan.grid.rights import Rights
from suan.grid.site import Pool, Site
from suan.grid.units import BYTES_PER_GB, microyuan
from suan.rules.fit import fit
from suan.sim.site import CHECKPOINT_ENV, DURATION_ENV, NODES_ENV, digest_of
from suan.sim.world import World

_MAX_RESTARTS = 3  # after crashes; traces do not say how often a job was tried
_REQUIRED = ("job_id", "submit_s", "duration_s", "gpus")

STRICT, SOFT, BEST = "strict", "soft", "best"
_KINDS = (STRICT, SOFT, BEST)
NO_DEADLINE = "-1"  # how the Chronus traces write it


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a trace. Numbers are what the columns say; None where they say nothing."""

    job_id: str
    submit_s: float
    duration_s: float
    gpus: int
    tenant: str = ""
    deadline_s: float | None = None  # after submit
    value: float | None = None  # yuan
    job_type: str = STRICT
    last_deadline_s: float | None = None
    value_steps: tuple[float, ...] = ()  # yuan
    gpu_kind: str = ""
    data_gb: float = 0.0
    data_site: str = ""
    priority: Priority = Priority.STANDARD
    checkpoint_s: float | None = None
    min_gpus: int | None = None
    max_gpus: int | None = None


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A task that somebody submits at a moment, and the data that are somewhere by then."""

    at_s: int  # after second 0 of the trace
    tenant: str
    task: Task
    then: tuple[Task, ...] = ()  # later tasks of the same pipeline
    data: Artifact | None = None
    data_site: str = ""
    kind: str = BEST  # of its deadline: strict, soft, or best for none
    worth: tuple[tuple[int, float], ...] = ()  # (seconds after submission, yuan if it has succeeded by then)


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    arrivals: tuple[Arrival, ...]  # by time
    impossible: dict[str, str]  # job -> why no pool of the world could ever run it


def read_jobs(path: Path) -> list[JobRow]:
    """Every row, in the file's order.

    Raises: Refused `no_jobs`, `bad_jobs` with the line.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            missing = [column for column in _REQUIRED if column not in (reader.fieldnames or ())]
            if missing:
                raise Refused(
                    "bad_jobs",
                    f"{path} has no column {missing[0]!r}",
                    hint=f"it needs {', '.join(_REQUIRED)}",
                )
            rows: list[JobRow] = []
            first_line: dict[str, int] = {}
            for row in reader:
                job = _row(path, reader.line_num, row)
                if job.job_id in first_line:
                    what = f"job_id {job.job_id!r} is in line {first_line[job.job_id]} already"
                    raise _bad(path, reader.line_num, what)
                first_line[job.job_id] = reader.line_num
                rows.append(job)
            return rows
    except FileNotFoundError as error:
        raise Refused("no_jobs", f"there is no file {path}", hint="check --jobs") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise Refused("bad_jobs", f"{path} cannot be read: {error}", hint="give a CSV file") from error


def make_trace(rows: list[JobRow], world: World, *, oracle: bool = False) -> Trace:
    """The rows as tasks for this world. `oracle`: the scheduler is told how long each really takes.

    Raises: Refused `bad_jobs` for data at a site that the world does not have.
    """
    sites = [
        Site(name=site.name, region=site.region, pools={pool.name: pool for pool in site.pools})
        for site in world.sites
    ]
    arrivals, impossible = [], {}
    for row in rows:
        arrival = _arrival(row, world, oracle=oracle)
        if why := _impossible(arrival.task, sites):
            impossible[row.job_id] = why
        else:
            arrivals.append(arrival)
    arrivals.sort(key=lambda arrival: arrival.at_s)
    return Trace(arrivals=tuple(arrivals), impossible=impossible)


def nodes_for(gpus: int, devices_per_node: int) -> int:
    """Nodes of a job: as few as hold it when every node gives the same number. 12 on nodes of 8 are 2 x 6."""
    fewest = -(-gpus // devices_per_node)
    return next(nodes for nodes in range(fewest, gpus + 1) if gpus % nodes == 0)


# ---------------------------------------------------------------- rows


def _bad(path: Path, line: int, what: str) -> Refused:
    return Refused("bad_jobs", f"{path}, line {line}: {what}", hint="mend the line", line=line)


def _row(path: Path, line: int, row: dict[str, str | None]) -> JobRow:
    def number(column: str, low: float, *, needed: bool = False) -> float | None:
        text = (row.get(column) or "").strip()
        if not text and not needed:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= low):
            raise _bad(path, line, f"{column} is {text!r}, not a number of at least {low:g}")
        return value

    def count(column: str, *, needed: bool = False) -> int | None:
        value = number(column, 1, needed=needed)
        if value is not None and value != int(value):
            raise _bad(path, line, f"{column} is {value:g}, not a whole number")
        return None if value is None else int(value)

    def moment(column: str) -> float | None:
        return None if (row.get(column) or "").strip() == NO_DEADLINE else number(column, 1)

    job_id = (row.get("job_id") or "").strip()
    if not job_id or None in row:
        raise _bad(path, line, "more fields than columns" if job_id else "it has no job_id")
    priority = (row.get("priority") or "standard").strip().lower()
    if priority not in tuple(Priority):
        raise _bad(path, line, f"priority is {priority!r}, not one of {', '.join(Priority)}")
    device = (row.get("gpu_kind") or "").strip()
    if device:
        try:
            device = accelerator(device).name
        except Refused as error:
            raise _bad(path, line, f"{error.what} ({error.hint})") from error
    kind = (row.get("job_type") or STRICT).strip().lower()
    if kind not in _KINDS:
        raise _bad(path, line, f"job_type is {kind!r}, not one of {', '.join(_KINDS)}")
    return JobRow(
        job_id=job_id,
        submit_s=number("submit_s", 0, needed=True) or 0.0,
        duration_s=number("duration_s", 0, needed=True) or 0.0,
        gpus=count("gpus", needed=True) or 1,
        tenant=(row.get("tenant") or "").strip(),
        deadline_s=moment("deadline_s"),
        value=number("value", 0),
        job_type=kind,
        last_deadline_s=moment("last_deadline_s"),
        value_steps=_steps(path, line, row.get("value_steps")),
        gpu_kind=device,
        data_gb=number("data_gb", 0) or 0.0,
        data_site=(row.get("data_site") or "").strip(),
        priority=Priority(priority),
        checkpoint_s=number("checkpoint_s", 0),
        min_gpus=count("min_gpus"),
        max_gpus=count("max_gpus"),
    )


def _steps(path: Path, line: int, text: str | None) -> tuple[float, ...]:
    """`10-8-5-2` -> (10, 8, 5, 2)."""
    parts = (text or "").strip()
    try:
        values = tuple(float(part) for part in parts.split("-")) if parts else ()
    except ValueError as error:
        raise _bad(path, line, f"value_steps is {parts!r}, not like 10-8-5-2") from error
    if any(not math.isfinite(value) for value in values):
        raise _bad(path, line, f"value_steps is {parts!r}, not like 10-8-5-2")
    return values


# ---------------------------------------------------------------- tasks


def _arrival(row: JobRow, world: World, *, oracle: bool) -> Arrival:
    pools = _pools(world, row.gpu_kind)
    nodes = _shape(row.gpus, pools)
    each = row.gpus // nodes
    truth_s = max(1, round(row.duration_s))
    env = {DURATION_ENV: str(truth_s)}
    checkpoint = None
    if row.checkpoint_s:
        checkpoint = Checkpoint(every_s=max(1, round(row.checkpoint_s)))
        env[CHECKPOINT_ENV] = str(checkpoint.every_s)
    elastic = _elastic(row, nodes, each)
    if elastic is not None:
        env[NODES_ENV] = str(nodes)
    data = _data(row, world)
    kinds = sorted({pool.accelerator for pool in pools}) or [row.gpu_kind]
    kind, worth = worth_of(row)
    task = Task(
        name=row.job_id,
        run=f"sleep {truth_s}",
        resources=tuple(Resources(accelerator=kind, accelerators=each, cpus=0) for kind in kinds),
        num_nodes=nodes,
        envs=env,
        inputs={"data": data.id} if data else {},
        priority=row.priority,
        deadline_s=None if kind == BEST else max(1, round(row.deadline_s or 1)),
        value_microyuan=microyuan(worth[0][1]) if kind == STRICT and worth else None,
        duration_s=truth_s if oracle else None,
        checkpoint=checkpoint,
        elastic=elastic,
        max_restarts=_MAX_RESTARTS,
    )
    return Arrival(
        at_s=int(row.submit_s),
        tenant=row.tenant or "default",
        task=task,
        data=data,
        data_site=row.data_site if data else "",
        kind=kind,
        worth=worth,
    )


def worth_of(row: JobRow) -> tuple[str, tuple[tuple[int, float], ...]]:
    """Whether its deadline is strict, soft or none, and what success by which moment is worth.

    A soft job's value falls in equal steps of time from its deadline to its last one, then to nought.
    """
    if row.deadline_s is None or row.job_type == BEST:
        return BEST, ()
    values = row.value_steps if row.value is None else (row.value,)
    if row.job_type == STRICT:
        return STRICT, tuple((round(row.deadline_s), value) for value in values[:1])
    span_s = max(0.0, (row.last_deadline_s or row.deadline_s) - row.deadline_s)
    steps = max(1, len(values) - 1)
    return SOFT, tuple(
        (round(row.deadline_s + span_s * number / steps), value) for number, value in enumerate(values)
    )


def _pools(world: World, kind: str) -> list[Pool]:
    """The pools of the kind that the job asks for, or of any accelerator. Cores are not asked for as GPUs."""
    return [
        pool
        for site in world.sites
        for pool in site.pools
        if pool.accelerator == kind
        or (not kind and accelerator(pool.accelerator).device_class != CPU_DEVICE_CLASS)
    ]


def _shape(gpus: int, pools: list[Pool]) -> int:
    """Nodes of a job of so many GPUs: the count that the most pools could serve, of equals the fewest."""
    counts = sorted({nodes_for(gpus, pool.devices_per_node) for pool in pools})

    def serving(nodes: int) -> int:
        return sum(nodes <= pool.nodes and gpus // nodes <= pool.devices_per_node for pool in pools)

    return max(counts, key=serving, default=1)


def _elastic(row: JobRow, nodes: int, each: int) -> Elastic | None:
    if row.min_gpus is None and row.max_gpus is None:
        return None
    low = -(-(row.min_gpus or row.gpus) // each)
    high = (row.max_gpus or row.gpus) // each
    return Elastic(min_nodes=min(low, nodes), max_nodes=max(high, nodes))


def _data(row: JobRow, world: World) -> Artifact | None:
    if not row.data_gb:
        return None
    if row.data_site not in {site.name for site in world.sites}:
        known = ", ".join(site.name for site in world.sites)
        where = f"at {row.data_site!r}" if row.data_site else "at no site (data_site is empty)"
        raise Refused(
            "bad_jobs", f"job {row.job_id} has {row.data_gb:g} GB of data {where}", hint=f"sites are {known}"
        )
    name = "trace-" + digest_of(row.job_id)[:16]
    return Artifact(
        id=f"dataset:{name}@1",
        digest=digest_of(name),
        bytes=round(row.data_gb * BYTES_PER_GB),
        files=1,
        tenant=row.tenant or "default",
        created_at_s=0,
        rights=Rights(owner=row.tenant or "default", readers=("*",)),
    )


def _impossible(task: Task, sites: list[Site]) -> str:
    """Why no pool could ever run the task; "" when one could."""
    nearest = ""
    for site in sites:
        for pool in site.pools.values():
            found = fit(task, site, pool)
            if isinstance(found, int):
                return ""
            if not nearest or found.code != "accelerator":
                nearest = f"{site.name}/{pool.name}: {found.text}"
    return nearest
