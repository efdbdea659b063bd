"""Where the measured tables are: $SUAN_DATA, or ../shared/data beside the checkout. Benches that need them
say so and stop where there are none.
"""

import csv
import gzip
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def training_rows() -> list[dict[str, str]]:
    """The rows of perf/training_dev.csv.gz, or of the file named on the command line with --rows."""
    named = sys.argv[sys.argv.index("--rows") + 1] if "--rows" in sys.argv else ""
    path = Path(named) if named else data_folder() / "perf" / "training_dev.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def data_folder() -> Path:
    """The folder of measured tables. Ends the program when there is none."""
    for folder in (os.environ.get("SUAN_DATA", ""), ROOT.parent / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    print("skipped: no measured tables; name their folder in SUAN_DATA")
    sys.exit(0)


def by_column(rows: list[dict[str, str]]) -> dict[str, list[str]]:
    """The rows as columns of text."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def write_page(name: str, text: str) -> None:
    """The text as docs/reference/NAME.md with --write, else on the screen."""
    if "--write" in sys.argv:
        (ROOT / "docs" / "reference" / f"{name}.md").write_text(text, "utf-8")
        print(f"wrote docs/reference/{name}.md")
    else:
        print(text)
