"""What a stage of a model's life computes, and what the performance model says of it on some devices.

Knows the nouns. The model itself is `estimate/`; what its answers mean for a bid is `rules/estimates.py`.
"""

import msgspec


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the performance model, devices apart: jobs of one work share their estimates."""

    stage: str  # train | evaluate | serve | quantise | corpus
    shape: dict[str, int]  # of the model: columns of `estimate.cases.Shapes`
    precision: str  # of the matrix multiplications
    seq_len: int = 0
    global_batch: int = 0  # sequences a step
    steps: int = 0
    fixed: dict[str, int] = {}  # plan columns that the recipe itself decides
    questions: int = 0  # of an evaluation, each with `choices` answers whose likelihood is read off
    choices: int = 0
    answers: int = 0  # that are written out, of `answer_tokens` each
    answer_tokens: int = 0  # in training: `answers` are written a step, and learnt from
    references: int = 0  # frozen copies of the policy that read a step's sequences forward
    judges: int = 0  # frozen models of its shape that do so as well: a learnt reward
    critics: int = 0  # models of its shape that are trained beside it
    passes: int = 1  # times that a step's sequences are trained on
    read_bytes: int = 0  # of inputs, where these are the work


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What the work takes on so many nodes of one kind."""

    run_s: float  # all of it; 0 for a service, which ends when somebody ends it
    low_s: float = 0.0  # nine of ten runs take between these
    high_s: float = 0.0
    memory_gib: float = 0.0  # on the fullest device
    capacity_gib: float = 0.0  # of a device, that work can use
    least_gib: float = 0.0  # what no tuning gets below
    fits: bool = True
    bound_by: str = ""  # compute | memory | network | bubble | launch | data | attention | host
    why: str = ""  # what the time goes to; for what does not fit, by how much
    kwh: float = 0.0  # of the nodes, PUE not included
    plan: dict[str, int | str] = {}  # how the run is to be laid over the devices: $SUAN_PLAN
    site_factor: float = 1.0  # by which runs at the site took longer than the model says; in `run_s` already
    site_runs: int = 0  # that this was learnt from


class Estimates(msgspec.Struct, frozen=True, kw_only=True):
    """All that was said of one work, by `place_name`."""

    work: Work
    on: dict[str, Estimate]
    unit_s: float  # the shortest of its runs: how long the work counts where the speed is 1


def place_name(accelerator: str, devices_per_node: int, nodes: int) -> str:
    """`H100-SXM:8x2`: eight devices in each of two nodes."""
    return f"{accelerator}:{devices_per_node}x{nodes}"
