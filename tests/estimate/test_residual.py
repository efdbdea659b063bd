"""Corrections: near what was measured, none far from it."""

import numpy as np

from suan.estimate.cases import Cases, Machines, Plans, Shapes
from suan.estimate.rates import kind_index
from suan.estimate.residual import (
    SCALES,
    Reference,
    correction,
    features,
    interval,
    reference,
    spread,
)
from suan.estimate.shapes import counted


def runs(kind: str, devices: int = 8, layers: int = 32) -> Cases:
    dims = {"hidden": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128, "value_head_dim": 128, "ffn": 11008}
    return Cases(
        shapes=counted(Shapes.filled(1, layers=layers, vocab=32000, **dims)),
        plans=Plans.filled(1, dp=devices),
        machines=Machines.filled(1, kind=kind_index(kind), devices=devices),
        seq_len=np.array([4096]),
        global_batch=np.array([64]),
    )


def known(*cases: Cases, log_ratio: float, rows: float = 10.0) -> Reference:
    whole = Cases.concat(cases)
    return Reference(
        at=features(whole), kind=whole.machines.kind, log_ratio=np.full(len(whole), log_ratio),
        rows=np.full(len(whole), rows), noise=0.25,
    )  # fmt: skip


def test_a_correction_holds_where_it_was_measured_and_fades_away_from_there() -> None:
    here, far = runs("A100-80GB"), runs("Ascend910B", devices=4096, layers=200)
    measured = known(here, log_ratio=0.3)
    near, away = correction(here, measured), correction(far, measured)
    assert 0.2 < np.log(near.factor[0]) < 0.3
    assert near.doubt[0] < 0.3
    assert abs(np.log(away.factor[0])) < 0.03
    assert away.doubt[0] > 0.9


def test_more_rows_are_believed_more() -> None:
    here = runs("H100")
    few, many = (correction(here, known(here, log_ratio=0.3, rows=rows)).factor[0] for rows in (1.0, 100.0))
    assert few < many < np.exp(0.3)


def test_the_stored_table_is_small_and_moderate() -> None:
    stored = reference()
    assert stored.at.shape[1] == len(SCALES)
    assert 50 < len(stored.rows) < 500
    assert np.abs(stored.log_ratio).max() <= 0.4


def test_doubt_widens_an_interval() -> None:
    for corrected in (True, False):
        low, high = interval(np.ones(2), np.array([0.1, 0.9]), spread(corrected=corrected))
        assert low[1] < low[0] < 1.0 < high[0] < high[1]
