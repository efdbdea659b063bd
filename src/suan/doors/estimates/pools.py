"""Several pools of different kinds on one training step: how they share it, and how often they have to meet.

Knows how the question is put to the model and how its answer is laid out; computes nothing else.
"""

import math
from collections.abc import Sequence

from msgspec.structs import replace

from suan.doors.estimates.answers import PoolsAnswer, ShareAnswer
from suan.doors.estimates.model import Model
from suan.doors.estimates.training import PLAN_COLUMNS, Machine, Step, case_of
from suan.estimate.cases import Cases, Machines
from suan.estimate.plans import Share, best_alone, exchange_of, share_step, slowest_s
from suan.estimate.rates import kinds
from suan.grid.error import Refused

_NO_LIMIT_GBPS = 1e9
MOST_POOLS = 16


def pools_answer(
    model: Model, pools: Sequence[Machine], step: Step, *, gbps_between: float, rtt_ms: float = 0.0
) -> PoolsAnswer:
    """How the pools take a step together where that is quicker than the quickest alone.

    Raises: Refused `bad_value`, `unknown_accelerator`, `no_plan`.
    """
    if not 2 <= len(pools) <= MOST_POOLS:
        raise Refused("bad_value", f"{len(pools)} pools; it must be 2 to {MOST_POOLS}", status=422)
    if not gbps_between > 0 or rtt_ms < 0:
        raise Refused("bad_value", "the link needs a rate above 0 and a round trip of 0 or more", status=422)
    whole = sum(pool.devices for pool in pools)
    usual = case_of(model, replace(pools[0], devices=whole), step, {})
    batch = int(usual.global_batch[0])
    cases = [case_of(model, pool, replace(step, global_batch=batch), {}) for pool in pools]
    alone = best_alone(cases[0], Machines.concat([case.machines for case in cases]))
    if not alone:
        raise Refused(
            "no_plan",
            f"{model.name} fits on none of the pools by itself, and each holds a whole copy",
            hint="suan estimate plan says what is missing on one of them",
            status=422,
        )
    rtt_s = rtt_ms / 1000
    shares = share_step(alone, gbps_between=gbps_between, rtt_s=rtt_s)
    near = share_step(alone, gbps_between=_NO_LIMIT_GBPS)
    exchange_s = exchange_of(near, gbps_between=gbps_between, rtt_s=rtt_s)
    spare_s = slowest_s(alone[:1]) - slowest_s(near)
    step_of = {share.pool: share.step_s for share in alone}
    return PoolsAnswer(
        model=model.name,
        params_b=float(usual.shapes.params[0]) / 1e9,
        global_batch=batch,
        seq_len=step.seq_len,
        gbps_between=gbps_between,
        rtt_ms=rtt_ms,
        shares=[_share(share) for share in shares],
        step_time_s=slowest_s(shares),
        alone_s={_called(case): step_of.get(pool, 0.0) for pool, case in enumerate(cases)},
        exchange_s=exchange_s,
        meet_every_steps=math.ceil(exchange_s / spare_s) if len(near) > 1 and spare_s > 0 else 0,
    )


def _called(case: Cases) -> str:
    return f"{kinds()[int(case.machines.kind[0])]} x {int(case.machines.devices[0])}"


def _share(share: Share) -> ShareAnswer:
    machines, plan = share.plan.machines, share.plan.plans
    return ShareAnswer(
        accelerator=kinds()[int(machines.kind[0])],
        devices=int(machines.devices[0]),
        sequences=share.sequences,
        step_time_s=share.step_s,
        plan={name: int(getattr(plan, name)[0]) for name in PLAN_COLUMNS if name != "sequence_parallel"},
    )
