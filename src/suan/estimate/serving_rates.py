"""Which share of a chip's peaks serving reaches, and what each step costs beside: read from serving.toml.

Knows coefficients by chip family. Does not know a model, a plan or a load.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suan.grid.hardware import accelerator

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRates:
    """Coefficients of the mechanics. Arrays go by family code; the others are for all."""

    compute_ratio: Floats  # of peak, large batches
    memory_ratio: Floats  # of memory bandwidth
    layer_s: Floats  # what a layer takes however little it does
    step_s: float  # host's work a step
    sequence_s: float  # host's work a sequence and step
    attention_ratio: float  # of the 16-bit peak, attention of prompts
    expert_ratio: float  # grouped products against plain ones
    width_half: float  # hidden size a device at which plain products reach half of their rate
    tile_rows: float  # rows added to each expert's product
    passes: float  # times that a layer reads or writes the hidden state
    routed_passes: float  # the same for each expert a token has
    power_exponent: float  # of the watts that a card has for its peak, against its family's largest
    stage_bubble: float  # what each further pipeline stage adds
    narrow_ratio: float  # 8 bits against 16: share of peak kept
    narrowest_ratio: float  # 4 bits against 16
    link_latency_s: float  # one all-reduce over a fabric
    bus_latency_s: float  # one all-reduce over PCIe
    link_ratio: float  # of link bandwidth
    overlap: float  # exponent of the norm that joins compute and weights: 1 = in turn, large = at once
    memory_share: float  # of device memory that engines use
    reserve_gib: float  # workspace a device
    growth_share: float  # of the output that a sequence is given room for
    capacity_spread: float  # of the logarithm of what a replica can take
    waiting_steps: float  # further steps until a new prompt is taken up when every place is taken
    queue_weight: float  # of a queue of memoryless arrivals before the prompts
    itl_p99_ratio: float  # to the mean, over requests
    ttft_p99_ratio: float


@cache
def serving_table() -> dict[str, Any]:
    """serving.toml as it is."""
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("suan.estimate").joinpath("serving.toml").read_text("utf-8"))


@cache
def families() -> tuple[str, ...]:
    """Family names; a family's code is its place. The last one is every chip nobody measured."""
    return tuple(serving_table()["family"])


@cache
def _members() -> dict[str, int]:
    table = serving_table()["family"]
    return {chip: code for code, name in enumerate(table) for chip in table[name]["members"]}


def family_of(accelerator: str) -> int:
    """The code of the family that has this accelerator, the last one if none has."""
    return _members().get(accelerator, len(families()) - 1)


def further_peaks(accelerator_name: str) -> dict[str, float]:
    """Peaks that the accelerator table has not, TFLOP/s by dtype."""
    peaks: dict[str, float] = serving_table()["peak_tflops"].get(accelerator_name, {})
    return peaks


@cache
def watts_per_tflops(family: int) -> float:
    """Of the family's card with the highest peak at 16 bits; 0 for the family of what nobody measured."""
    members = serving_table()["family"][families()[family]]["members"]
    cards = [accelerator(member) for member in members]
    rated = [(card.peak_tflops.get("bf16", 0.0), card.tdp_w or 0.0) for card in cards]
    peak, watts = max(rated, default=(0.0, 0.0))
    return watts / peak if peak else 0.0


@cache
def serving_rates() -> ServingRates:
    """The fitted coefficients."""
    table = serving_table()
    by_family: dict[str, Any] = {
        name: np.array([family[name] for family in table["family"].values()])
        for name in ("compute_ratio", "memory_ratio", "layer_s")
    }
    return ServingRates(**by_family, **table["rates"])
