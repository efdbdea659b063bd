"""Every plan that a training framework would accept for a model on a machine.

Knows what must divide what. Does not know which plan is good, except for what is never better than another:
`undominated` drops a plan whose twin fits with less recompute.

Source of the rules: the argument checks of Megatron-LM core 0.14, and of PyTorch's FSDP2.
"""

from collections.abc import Mapping

import numpy as np

from suan.estimate.cases import Attention, Bools, Cases, Floats, Ints, Plans, Recompute
from suan.estimate.rates import rates

MOST_TENSOR_PARALLEL = 64
MOST_MICRO_BATCH = 64
MOST_CHUNKS = 16
FULL_RATIOS = (0.25, 0.5, 0.75, 1.0)  # of a stage's layers; Megatron-LM: --recompute-method block
LEAST_CONTEXT_TOKENS = 2048  # a context-parallel rank with fewer only waits for its neighbours

# Plan columns that a search may choose, in the order in which they are crossed.
OPEN = ("tp", "pp", "cp", "ep", "dp", "micro_batch", "vpp", "zero_stage", "recompute")


def legal_plans(case: Cases, given: Mapping[str, bool] | None = None) -> Plans:
    """All legal plans for one case; columns that are `given` keep the case's value.

    May be empty: nothing divides.
    """
    assert len(case) == 1, "one case at a time"
    fixed = given or {}
    plan = case.plans

    def choices(name: str, values: Ints | list[int]) -> Ints:
        return getattr(plan, name) if fixed.get(name) else np.asarray(values, dtype=np.int64)

    tp, pp, cp = _crossed(
        choices("tp", _tensor_parallel(case)),
        choices("pp", _pipeline_stages(case)),
        choices("cp", _context_parallel(case)),
    )
    tp, pp, cp = _kept(_layout_is_legal(case, tp, pp, cp, given=fixed), tp, pp, cp)
    dp = plan.dp.repeat(len(tp)) if fixed.get("dp") else case.machines.devices // np.maximum(tp * pp * cp, 1)
    ep_values = choices("ep", _expert_parallel(case))
    (tp, pp, cp, dp), ep = _with(ep_values, tp, pp, cp, dp)
    if not fixed.get("ep"):
        tp, pp, cp, dp, ep = _kept(_experts_divide(tp * cp * dp, ep), tp, pp, cp, dp, ep)
    micro_values = choices("micro_batch", _micro_batches(case))
    (tp, pp, cp, dp, ep), micro = _with(micro_values, tp, pp, cp, dp, ep)
    if not fixed.get("micro_batch"):
        whole = case.global_batch % np.maximum(dp * micro, 1) == 0
        if not whole.any():  # no batch divides: frameworks pad or drop; take the smallest
            whole = micro == micro.min() if len(micro) else whole
        tp, pp, cp, dp, ep, micro = _kept(whole, tp, pp, cp, dp, ep, micro)
    (tp, pp, cp, dp, ep, micro), vpp = _with(choices("vpp", _chunks(case)), tp, pp, cp, dp, ep, micro)
    if not fixed.get("vpp"):
        fine = _chunks_divide(case, pp, vpp, np.ceil(case.global_batch / np.maximum(dp * micro, 1)))
        tp, pp, cp, dp, ep, micro, vpp = _kept(fine, tp, pp, cp, dp, ep, micro, vpp)
    policy, ratio = (plan.recompute, plan.recompute_ratio) if fixed.get("recompute") else _policies(case)
    zero, chosen = _crossed(choices("zero_stage", [0, 1, 2, 3]), np.arange(len(policy)))
    (tp, pp, cp, dp, ep, micro, vpp), pair = _with(np.arange(len(zero)), tp, pp, cp, dp, ep, micro, vpp)
    zero, chosen = zero[pair], chosen[pair]
    if not fixed.get("zero_stage"):
        columns = (tp, pp, cp, dp, ep, micro, vpp, zero, chosen)
        tp, pp, cp, dp, ep, micro, vpp, zero, chosen = _kept(_sharding_is_legal(dp * cp, pp, zero), *columns)
    found = {
        "tp": tp,
        "pp": pp,
        "cp": cp,
        "ep": ep,
        "dp": dp,
        "micro_batch": micro,
        "vpp": vpp,
        "zero_stage": zero,
    }
    return _plans(case, {**found, "recompute": policy[chosen]}, ratio[chosen], given=fixed)


def undominated(plans: Plans, fits: Bools) -> Ints:
    """Positions of the fitting plans that no other fitting plan betters with certainty.

    Of plans that differ in recompute alone, the one that computes least again is never slower.
    """
    order = np.flatnonzero(fits)
    if not len(order):
        return order
    table = np.stack([getattr(plans, name)[order] for name in OPEN if name != "recompute"], axis=1)
    full = plans.recompute == Recompute.FULL
    again = np.where(full, 1.0 + plans.recompute_ratio, plans.recompute)[order]
    by_work = np.argsort(again, kind="stable")
    _, first = np.unique(table[by_work], axis=0, return_index=True)
    return np.sort(order[by_work[first]])


# ------------------------------------------------------------------ values worth trying


def _powers(most: int) -> Ints:
    return np.asarray(2 ** np.arange(int(np.log2(max(most, 1))) + 1), dtype=np.int64)


def _divisors(number: int, most: int | None = None) -> Ints:
    tried = np.arange(1, min(number, most or number) + 1)
    return _those(tried, number % tried == 0)


def _those(values: Ints, mask: Bools) -> Ints:
    return np.asarray(values[mask], dtype=np.int64)


def scale_up_devices(case: Cases) -> int:
    """Devices joined by the fast links: a node, or more where the links leave the node."""
    in_node = int(case.machines.devices_per_node[0])
    return max(in_node, min(int(rates().link_domain[case.machines.kind[0]]), int(case.machines.devices[0])))


def _tensor_parallel(case: Cases) -> Ints:
    """Divisors of the fast domain that split heads and feed-forward evenly."""
    shapes = case.shapes
    most = min(scale_up_devices(case), MOST_TENSOR_PARALLEL, int(case.machines.devices[0]))
    values = _divisors(most)
    heads, groups = int(shapes.heads[0]), max(int(shapes.kv_heads[0]), 1)
    width = int(shapes.ffn[0]) or int(shapes.expert_ffn[0])
    even = (heads % values == 0) & ((groups % values == 0) | (values % groups == 0)) & (width % values == 0)
    return values[even] if even.any() else np.array([1])


def _pipeline_stages(case: Cases) -> Ints:
    """Stages of equal layers, embeddings and head counted as layers where that is what divides."""
    layers, devices = int(case.shapes.layers[0]), int(case.machines.devices[0])
    values = np.unique(np.concatenate([_divisors(layers), _divisors(layers + 1), _divisors(layers + 2)]))
    return _those(values, (values <= layers) & (values <= devices))


def _context_parallel(case: Cases) -> Ints:
    seq_len = int(case.seq_len[0])
    values = _powers(max(seq_len // LEAST_CONTEXT_TOKENS, 1))
    return _those(values, (seq_len % (2 * values) == 0) | (values == 1))


def _expert_parallel(case: Cases) -> Ints:
    experts = int(case.shapes.experts[0])
    return _divisors(experts) if experts else np.array([1])


def _micro_batches(case: Cases) -> Ints:
    return _divisors(max(int(case.global_batch[0]), 1), MOST_MICRO_BATCH)


def _chunks(case: Cases) -> Ints:
    return np.arange(1, min(int(case.shapes.layers[0]), MOST_CHUNKS) + 1)


def _policies(case: Cases) -> tuple[Ints, Floats]:
    """Recompute policies and the part of the layers they are in force in, least work first."""
    unfused = int(case.plans.attention[0]) == Attention.UNFUSED
    lighter = [Recompute.NONE, Recompute.SELECTIVE] if unfused else [Recompute.NONE]
    policies = [*lighter, *[Recompute.FULL] * len(FULL_RATIOS)]
    ratios = [*[1.0] * len(lighter), *FULL_RATIOS]
    return np.array(policies, dtype=np.int64), np.array(ratios)


# ------------------------------------------------------------------ what must divide what


def _layout_is_legal(case: Cases, tp: Ints, pp: Ints, cp: Ints, *, given: Mapping[str, bool]) -> Bools:
    if given.get("tp") and given.get("pp") and given.get("dp"):
        return np.ones(len(tp), dtype=bool)
    devices = int(case.machines.devices[0])
    replica = tp * pp * cp
    if given.get("dp"):
        return np.asarray(replica * int(case.plans.dp[0]) == devices)
    return np.asarray((replica <= devices) & (devices % np.maximum(replica, 1) == 0))


def _experts_divide(ranks: Ints, ep: Ints) -> Bools:
    return np.asarray(ranks % np.maximum(ep, 1) == 0)


def _chunks_divide(case: Cases, pp: Ints, vpp: Ints, micro_batches: Ints) -> Bools:
    """Interleaving needs whole chunks of layers, embedding and head counted as layers where that is what
    divides, and as many micro-batches as stages, or a multiple.
    """
    layers, pieces = int(case.shapes.layers[0]), np.maximum(pp * vpp, 1)
    even = np.where(layers % pp == 0, layers % pieces == 0, (layers + 2) % pieces == 0)
    whole = even & (micro_batches % pp == 0)
    return np.asarray((vpp == 1) | ((pp > 1) & whole))


def _sharding_is_legal(ranks: Ints, pp: Ints, zero: Ints) -> Bools:
    """Nothing to shard on one rank; gradients and weights stay whole in a pipeline."""
    return np.asarray(np.where(ranks == 1, zero == 0, (zero > 0) & ((pp == 1) | (zero == 1))))


# ------------------------------------------------------------------ arrays


def _crossed(*values: Ints) -> list[Ints]:
    return [column.ravel() for column in np.meshgrid(*values, indexing="ij")]


def _with(values: Ints, *columns: Ints) -> tuple[list[Ints], Ints]:
    """Each row of `columns` with each of `values`."""
    return [np.repeat(column, len(values)) for column in columns], np.tile(values, len(columns[0]))


def _kept(mask: Bools, *columns: Ints) -> list[Ints]:
    return [column[mask] for column in columns]


def _plans(case: Cases, found: Mapping[str, Ints], ratio: Floats, *, given: Mapping[str, bool]) -> Plans:
    """The case's plan with the columns found; sequence parallelism wherever there is tensor parallelism."""
    columns: dict[str, Ints | Floats] = {**found, "recompute_ratio": ratio}
    if not given.get("sequence_parallel"):
        columns["sequence_parallel"] = (found["tp"] > 1).astype(np.int64)
    return case.plans.repeat(len(found["tp"])).with_columns(**columns)
