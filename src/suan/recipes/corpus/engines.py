"""Who does the work: one process, or Daft on all cores of a machine or on a Ray cluster.

Knows how the same two functions (clean one part; find pairs that share a band) are spread. Parts are written
to a folder that all workers see; a part that is there is not done again.
"""

import importlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from suan.grid.error import Refused
from suan.recipes.corpus.reading import Part

if TYPE_CHECKING:
    import numpy as np


def each_part(engine: str, clean: Callable[[Part], None], parts: list[Part]) -> Iterator[int]:
    """Cleans all parts; yields the number of each when it is done.

    Raises: Refused `no_daft` when a cluster is asked for and its library is not there.
    """
    if engine == "local":
        for part in parts:
            clean(part)
            yield part.number
        return
    daft = _daft(engine)

    @daft.func(return_dtype=daft.DataType.int64())
    def cleaned(part: str) -> int:
        decoded = msgspec.json.decode(part, type=Part)
        clean(decoded)
        return decoded.number

    table = daft.from_pydict({"part": [msgspec.json.encode(part).decode() for part in parts]})
    spread = table.into_partitions(len(parts)) if len(parts) > 1 else table
    for row in spread.select(cleaned(daft.col("part")).alias("number")).iter_rows():
        yield row["number"]


def pairs(engine: str, bands: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """(pairs, 2): every document with the first one that shares a band with it."""
    import numpy as np

    if engine == "local" or not len(bands):
        from suan.recipes.corpus.duplicates import star_edges

        return star_edges(bands)
    daft = _daft(engine)
    col = daft.col
    table = daft.from_pydict({"document": np.arange(len(bands)), "band": [row.tolist() for row in bands]})
    exploded = table.explode(col("band"))
    first = exploded.groupby("band").agg(
        col("document").min().alias("first"), col("document").count().alias("many")
    )
    joined = exploded.join(first.where(col("many") > 1), on="band").where(col("document") != col("first"))
    found = joined.select(col("first"), col("document")).distinct().to_pydict()
    edges = np.array([found["first"], found["document"]], np.int64).T.reshape(-1, 2)
    return edges[np.lexsort((edges[:, 1], edges[:, 0]))]


@cache  # a process may choose its runner once
def _daft(engine: str) -> Any:
    try:
        import daft

        if engine == "ray":
            importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise Refused(
            "no_daft", f"engine={engine} needs {error.name}", hint="pip install 'suan[data-cluster]'"
        ) from None
    if engine == "ray":
        daft.set_runner_ray()
    else:
        daft.set_runner_native()
    return daft
