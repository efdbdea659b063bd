"""What a user writes (Task), what it becomes once submitted (Job), and one placement of it (Run).

Knows the shapes and the phases. Does not know how a task file is spelt (`doors/taskfile/`) or what may happen
when (`rules/evolve.py`).
"""

import enum
from typing import Any

import msgspec

from suan.grid.account import Quote
from suan.grid.work import Estimate


class Priority(enum.StrEnum):
    """Online is never stopped for others; standard may be; valley fills the troughs and is stopped first."""

    ONLINE = "online"
    STANDARD = "standard"
    VALLEY = "valley"


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """One acceptable kind of node. `accelerator` is canonical; "" asks for CPU cores only."""

    accelerator: str = ""
    accelerators: int = 0  # devices a node; for a CPU request 0, and `cpus` counts the devices
    cpus: float = 1.0  # at least, per node
    memory_gib: float = 0.0  # at least, per node; 0 = whatever comes
    disk_gib: float = 0.0
    use_spot: bool = False
    ports: tuple[int, ...] = ()

    @property
    def devices(self) -> int:
        """Devices a node that the request takes from its pool: accelerators, or whole CPU cores."""
        return self.accelerators if self.accelerator else max(1, -int(-self.cpus // 1))


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job keeps what it needs to go on, and how much work is lost at most when it is stopped."""

    dir: str = "$SUAN_CHECKPOINT"
    every_s: int = 600


class Elastic(msgspec.Struct, frozen=True, kw_only=True):
    """How many nodes will do, and how fast the job runs on them: steps or tokens a second, any unit."""

    min_nodes: int = 1
    max_nodes: int = 1
    speed: dict[int, float] = {}  # nodes -> speed; empty: a prior


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job may run. Empty means anywhere; `not_sites` wins. Names are sites or regions."""

    sites: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    not_sites: tuple[str, ...] = ()


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    """Makes a job a service."""

    min: int = 1
    max: int = 1
    target_ttft_ms: int = 0


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, on what, with which data. Names of artifacts are `kind:name` or `kind:name@version`."""

    name: str
    run: str = ""  # shell text; every node runs it
    setup: str = ""  # shell text run once per node before `run`
    recipe: str = ""  # a lifecycle stage that wrote `run`
    args: dict[str, Any] = {}  # the recipe's arguments (`with:` in a task file)
    workdir: str = ""  # artifact digest of an uploaded folder, or "" for none
    resources: tuple[Resources, ...] = (Resources(),)  # any of these
    resources_ordered: bool = False  # True: the first that fits, whatever it costs
    num_nodes: int = 1
    envs: dict[str, str] = {}
    secrets: dict[str, str] = {}  # never shown, never logged
    inputs: dict[str, str] = {}  # name -> artifact; folder at $SUAN_INPUT_<NAME>
    outputs: dict[str, str] = {}  # name -> artifact; folder at $SUAN_OUTPUT_<NAME>
    after: tuple[str, ...] = ()  # earlier tasks of the same file that must have succeeded
    file_mounts: dict[str, str] = {}  # path at the run -> artifact or URL
    priority: Priority = Priority.STANDARD
    deadline_s: int | None = None  # after submission
    value_microyuan: int | None = None  # lost when the deadline is missed; None: lateness costs by the hour
    max_cost_microyuan: int | None = None
    duration_s: int | None = None  # the user's or recipe's estimate; None = unknown
    max_duration_s: int | None = None  # stopped after this
    checkpoint: Checkpoint | None = None
    elastic: Elastic | None = None
    place: Place = Place()
    replicas: Replicas | None = None
    max_restarts: int = 0  # after its own failures; a lost site or a preemption does not count
    notes: tuple[str, ...] = ()  # keys that were understood and set aside, each with its reason


class JobPhase(enum.StrEnum):
    WAITING = "waiting"  # for data, devices, quota or a better hour: see its reason
    PLACED = "placed"  # has a run that is not known to have ended
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


TERMINAL_PHASES = frozenset({JobPhase.SUCCEEDED, JobPhase.FAILED, JobPhase.STOPPED})


class InputBinding(msgspec.Struct, frozen=True, kw_only=True):
    """What an input stands for: a version that exists, what another job will write, or its success."""

    artifact: str = ""  # kind:name@version, once known
    from_job: str = ""  # else the job that writes it
    from_output: str = ""  # "": nothing is handed over, the job must have succeeded


class Bid(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a job: where, on how many devices, when, and what it costs."""

    site: str
    pool: str
    devices: int
    nodes: int
    start_s: int
    finish_s: int
    quote: Quote
    scarcity_microyuan: int = 0  # what its devices are worth by the clearing prices, beyond their cost
    resources_index: int = 0
    estimate: Estimate | None = None  # by the performance model; None where it knows nothing of the job


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why not (yet): a code, two numbers compared in one unit, in words, and what would help."""

    code: str
    text: str
    need: float | None = None
    have: float | None = None
    unit: str = ""
    help: str = ""
    expected_start_s: int | None = None


class Considered(msgspec.Struct, frozen=True, kw_only=True):
    """What was weighed when a job was placed: bids from cheapest up, and the pools that cannot run it."""

    bids: tuple[Bid, ...] = ()
    unfit: dict[str, Reason] = {}  # "site/pool" -> why not
    chosen: int = 0
    why: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A task once submitted. It has one lifetime; terminal is terminal."""

    id: str
    tenant: str
    task: Task
    submitted_at_s: int
    sequence: int  # the journal's number of its submission: the last tie-breaker
    pipeline: str = ""
    inputs: dict[str, InputBinding] = {}
    work: str = ""  # the name of its estimates, "" when the performance model knows nothing of it
    phase: JobPhase = JobPhase.WAITING
    runs: tuple[str, ...] = ()
    restarts: int = 0  # after its own failures
    refusals: int = 0  # times in a row that an engine could not start it
    losses: int = 0  # times in a row that its site soon lost it
    not_before_s: int = 0  # after a refusal or the second loss in a row: try again no sooner
    stop_requested_at_s: int | None = None
    considered: Considered | None = None
    started_at_s: int | None = None  # of the first run
    ended_at_s: int | None = None
    outcome: str = ""  # one sentence
    outputs: dict[str, str] = {}  # name -> kind:name@version, once committed
    metrics: dict[str, float] = {}  # what the recipe reported at its end


def is_flexible(task: Task, *, waits_free: bool = True) -> bool:
    """Whether a run of the task may leave at a checkpoint to come back later, or at another size.

    `waits_free` is whether the policy lets it rest until its deadline.
    """
    if task.checkpoint is None or task.replicas is not None:
        return False
    return task.priority == Priority.VALLEY or task.elastic is not None or (waits_free and may_wait(task))


def may_wait(task: Task) -> bool:
    """Whether it says when its end is wanted, and does not want to begin at once all the same."""
    return task.deadline_s is not None and task.replicas is None and task.priority != Priority.ONLINE


Demand = tuple[Any, ...]  # what a job asks for; jobs of equal demand are decided as one class


def demand(job: Job) -> Demand:
    """Everything about a job that decides where it could run, but not its age, its length or how soon it is
    due. Hashable.

    With a `max_cost` the length counts, too: what is too dear for one may be cheap enough for another.
    """
    task = job.task
    limit = task.max_cost_microyuan
    money = () if limit is None else (limit, task.duration_s)
    inputs = tuple(
        (name, bound.artifact, bound.from_job, bound.from_output)
        for name, bound in sorted(job.inputs.items())
    )
    elastic = task.elastic and (task.elastic.min_nodes, task.elastic.max_nodes, *task.elastic.speed.items())
    begun = job.id if job.runs and task.checkpoint is not None else ""  # what it has done lies at its site
    wanted = (task.resources, task.num_nodes, elastic, task.place, inputs, begun, job.work)
    return (job.tenant, task.priority, wanted, task.deadline_s is not None, task.value_microyuan, money)


class RunPhase(enum.StrEnum):
    ORDERED = "ordered"  # the order is written; nothing is known to have started
    RUNNING = "running"
    STOPPING = "stopping"  # devices are releasing: they count as used until the exit is confirmed
    UNKNOWN = "unknown"  # its site is silent; it may be running
    ENDED = "ended"


class EndCause(enum.StrEnum):
    """Why a run ended. Only `EXITED` says something about the job itself."""

    EXITED = "exited"
    STOPPED = "stopped"  # by order: user, preemption, budget
    FENCED = "fenced"  # its site lost the grid for longer than its lease
    LOST = "lost"  # the engine or node lost it
    NOT_STARTED = "not_started"  # the engine refused to start it


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One placement of a job: site, pool, devices, and the prices it was placed at."""

    id: str
    job: str
    tenant: str
    site: str
    pool: str
    nodes: int
    devices: int  # in all nodes together
    accelerator: str
    placed_at_s: int
    expected_end_s: int
    quote: Quote
    resources_index: int = 0
    inputs: dict[str, str] = {}  # name -> artifact version
    plan: dict[str, int | str] = {}  # how its work is laid over its devices, by the performance model
    phase: RunPhase = RunPhase.ORDERED
    stop_reason: str = ""
    started_at_s: int | None = None
    heard_at_s: int | None = None  # when the grid heard of its start
    ended_at_s: int | None = None
    cause: EndCause | None = None
    exit_code: int | None = None
    endpoint: str = ""  # where a service answers, once it does
