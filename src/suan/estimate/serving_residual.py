"""What is left over after the mechanics: a table by engine, chip family and precision, and how far off.

Knows factors fitted on published rows, shrunk towards none where there were few, and the spread of errors on
rows that were not fitted. Does not know the mechanics; everything works without it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from suan.estimate.cases import Floats
from suan.estimate.serving_cases import Engine, Scenario, ServingCases
from suan.estimate.serving_rates import families, serving_table

MEASURES = ("throughput", "ttft", "itl")
COMPUTED = ("16", "8", "4")  # bits, by the word a row of the table has
_BITS = np.array([0, 0, 0, 0, 1, 1, 2, 1, 2])  # of Precision


@dataclass(frozen=True, slots=True)
class ServingResidual:
    """By measure: logarithms of factors, [engine, family, bits]; half-widths, [dense, mixture]."""

    factors: dict[str, np.ndarray]
    spreads: dict[
        str, np.ndarray
    ]  # "offered" besides MEASURES: throughput of a stream that is below capacity

    @staticmethod
    def none() -> "ServingResidual":
        """No correction; the spread is that of pure mechanics."""
        shape = (len(Engine), len(families()), len(COMPUTED))
        spreads = {m: np.array(v) for m, v in serving_table()["spread"]["mechanics"].items()}
        return ServingResidual({m: np.zeros(shape) for m in MEASURES}, spreads)

    def of(self, cases: ServingCases) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """(factor, half-width as a factor) of every case, by measure."""
        at = (cases.engine, cases.family, _BITS[cases.precision])
        mixture = (cases.experts > 0).astype(np.int64)
        factors = {m: np.exp(self.factors[m][at]) for m in MEASURES}
        factors["ttft"] = np.where(queues_freely(cases), factors["ttft"], 1.0)
        return factors, {m: np.exp(values[mixture]) for m, values in self.spreads.items()}


def queues_freely(cases: ServingCases) -> np.ndarray:
    """Where an engine's own way to queue shows in first tokens: not where short latencies are demanded, and
    so few sequences admitted that every engine takes a prompt up at once.
    """
    return np.asarray(cases.scenario != Scenario.INTERACTIVE)


def bits_of(cases: ServingCases) -> np.ndarray:
    """Position in COMPUTED of every case."""
    return _BITS[cases.precision]


@cache
def serving_residual() -> ServingResidual:
    """The fitted table of serving.toml."""
    table: dict[str, Any] = serving_table()
    names = families()
    none = ServingResidual.none()
    factors = {m: values.copy() for m, values in none.factors.items()}
    for row in table.get("residual", []):
        at = (Engine[row["engine"].upper()], names.index(row["family"]), COMPUTED.index(row["bits"]))
        for measure in ("throughput", "itl"):
            factors[measure][at] = np.log(row[measure])
    for engine, factor in table.get("residual_ttft", {}).items():
        factors["ttft"][Engine[engine.upper()]] = np.log(factor)
    spreads = {m: np.array(v) for m, v in table["spread"]["residual"].items()}
    return ServingResidual(factors, spreads)
