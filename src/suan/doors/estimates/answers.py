"""What estimates are answered with: the same structs on the command line's --json and over REST."""

import msgspec


class PlanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One parallel plan and what it comes to. Time in seconds a step; `low` and `high` hold nine of ten
    runs.
    """

    rank: int
    dp: int
    tp: int
    pp: int
    vpp: int
    ep: int
    cp: int
    micro_batch: int
    zero_stage: int
    sequence_parallel: bool
    recompute: str
    recompute_ratio: float  # of the layers, where it is full
    step_time_s: float
    step_time_s_low: float
    step_time_s_high: float
    tokens_per_s_per_accel: float
    mfu: float
    memory_gib: float
    capacity_gib: float
    fits: bool
    bound_by: str
    reason: str
    kwh_per_step: float
    seconds_by_part: dict[str, float]
    gib_by_part: dict[str, float]


class PlansAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The best plans, best first; `legal` divide, and `fitting` of those fit with their margin."""

    model: str
    params_b: float
    active_params_b: float
    accelerator: str
    devices: int
    global_batch: int
    seq_len: int
    precision: str
    plans: list[PlanAnswer]
    legal: int
    fitting: int
    seconds_spent: float
    notes: list[str] = []


class ShareAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What one pool does of a step that several take together, under which plan (columns as in tables)."""

    accelerator: str
    devices: int
    sequences: int
    step_time_s: float
    plan: dict[str, int]


class PoolsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One step over several pools, each with whole copies of the model; one share: alone is quicker.

    `alone_s` is the step of each pool by itself, 0 where the model does not fit. `exchange_s` is one sum of
    gradients over the link; `meet_every_steps` the fewest steps between two exchanges with which all together
    are quicker than the quickest alone, 0: never.
    """

    model: str
    params_b: float
    global_batch: int
    seq_len: int
    gbps_between: float
    rtt_ms: float
    shares: list[ShareAnswer]
    step_time_s: float
    alone_s: dict[str, float]
    exchange_s: float
    meet_every_steps: int


class TrainingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole training run takes under its plan. Money is there where a price was given."""

    model: str
    params_b: float
    active_params_b: float
    accelerator: str
    devices: int
    tokens: float
    steps: int
    hours: float
    hours_low: float
    hours_high: float
    device_hours: float
    kwh: float
    gib: float
    cny: float | None
    plan: PlanAnswer
    seconds_spent: float
    notes: list[str] = []


class ServingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model serves on some devices. Latencies in milliseconds; what a scenario has not is null."""

    model: str
    accelerator: str
    devices: int
    tensor_parallel: int
    replicas: int
    fits: bool
    output_tokens_per_s: float
    output_tokens_per_s_low: float
    output_tokens_per_s_high: float
    requests_per_s: float
    ttft_ms: float | None
    ttft_p99_ms: float | None
    itl_ms: float | None
    itl_p99_ms: float | None
    kv_capacity_tokens: int
    utilisation: float
    bound_by: str
    replicas_needed: int | None
    devices_needed: int | None
    seconds_spent: float
    notes: list[str] = []


class RowsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A row for each row that was asked about, in order; columns as `suan estimate … --csv` writes them."""

    rows: list[dict[str, str | int | float | None]]
    notes: list[str] = []
