"""How every benchmark reports: a figure, its limit and where that is from, and the ratio to a peer or a
bound.
"""

import json
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    what: str
    value: float
    unit: str
    limit: float
    limit_source: str
    ratio: float  # to the peer or bound, measured in the same run
    beside: str
    higher_is_better: bool = False

    @property
    def within(self) -> bool:
        return self.value >= self.limit if self.higher_is_better else self.value <= self.limit


def show(name: str, results: list[Result]) -> None:
    """Prints a table, or JSON with --json; exits 1 when a limit is passed."""
    if "--json" in sys.argv:
        print(
            json.dumps(
                {name: [asdict(result) | {"within": result.within} for result in results]}, ensure_ascii=False
            )
        )
    else:
        for r in results:
            sign = "≥" if r.higher_is_better else "≤"
            mark = "ok  " if r.within else "OVER"
            limit = f"limit {sign} {r.limit:g} {r.unit}, {r.limit_source}"
            print(f"{mark} {r.what}: {r.value:,.4g} {r.unit} ({limit}); {r.ratio:,.3g} x {r.beside}")
    if not all(result.within for result in results):
        sys.exit(1)
