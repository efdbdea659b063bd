"""Which tasks there are to run: those made of the corpus, and definitions whose data are at hand.

A definition is lm-eval's YAML. It names its data relative to a root, which is the folder that lm-eval runs
in; so `cd ROOT && lm_eval run --include_path DEFINITIONS` asks the same questions.
"""

import csv
import glob
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from suan.grid.error import Refused

DEFINITIONS = Path(__file__).parent / "definitions"


class Question(NamedTuple):
    """A task to be run: its name, where lm-eval finds its definition, and the root of its data."""

    name: str
    include: tuple[Path, ...]
    root: Path
    test_files: tuple[str, ...]
    shots: bool = True  # whether worked examples make sense


def read_definition(file: Path) -> dict[str, Any]:
    """The definition with what it includes, Python functions left as text."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: node.value)
    with file.open(encoding="utf-8") as text:
        found: dict[str, Any] = yaml.load(text, Loader)
    shared = found.pop("include", None)
    return (read_definition(file.parent / shared) if isinstance(shared, str) else {}) | found


def of_folder(include: tuple[Path, ...], root: Path) -> Iterator[Question]:
    """Tasks defined directly in the folders whose test files are below `root`, by name."""
    for folder in include:
        for file in sorted(folder.glob("*.yaml")):
            config = read_definition(file)
            if "task" not in config:
                continue
            files = config["dataset_kwargs"]["data_files"]
            test = files[config.get("test_split", "test")]
            names = (test,) if isinstance(test, str) else tuple(test)
            if names and all(glob.glob(name, root_dir=root) for name in names):
                yield Question(config["task"], include, root, names, "fewshot_split" in config)


def choose(found: list[Question], wanted: tuple[str, ...]) -> list[Question]:
    """Those that are wanted, or all.

    Raises: Refused `unknown_task` with the names there are.
    """
    by_name = {question.name: question for question in found}
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise Refused(
            "unknown_task",
            f"no task is called {missing[0]!r}, or its data are not there",
            hint=f"there are {', '.join(by_name) or 'none'}; shipped definitions need files below `data`",
        )
    return [by_name[name] for name in wanted] if wanted else list(by_name.values())


def drawn(question: Question, count: int, seed: int) -> list[int] | None:
    """Numbers of `count` questions drawn by seed; None for all. A file's first lines are no sample: many
    benchmarks are sorted by label."""
    total = 0
    for name in question.test_files:
        for file in glob.glob(name, root_dir=question.root):
            total += _rows(question.root / file)
    if not count or total <= count:
        return None
    return sorted(random.Random(f"{seed}/{question.name}").sample(range(total), count))


def _rows(file: Path) -> int:
    """Questions in a file: lines of JSON, or records of CSV below their heading."""
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as table:
            return sum(1 for row in csv.reader(table) if row) - 1
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())
