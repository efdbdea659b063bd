"""What the conformance suite found, kept for docs/reference/make_engines.py, which makes a table of it.

Every process that runs tests writes down its own cases, in pytest's cache: `conformance/PROCESS.json`. A case
is (engine, test); cases of one test with several parameters are one, and it passed when each of them did.
"""

import importlib.metadata
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

FOLDER = "conformance"  # in pytest's cache
_RANK = {"skipped": 0, "passed": 1, "failed": 2}  # what is said of a case is the worst of its parts


class Outcomes:
    """The cases of one process."""

    def __init__(self) -> None:
        self.cases: dict[str, dict[str, dict[str, Any]]] = {}  # engine -> test -> {outcome, why, at_s}

    def note(self, engine: str, test: str, report: Any) -> None:
        """One phase of one test; only what says something new is kept."""
        if report.when != "call" and report.outcome == "passed":
            return
        why = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            why = str(report.longrepr[2]).removeprefix("Skipped: ")
        case = {"outcome": report.outcome, "why": why, "at_s": int(time.time())}
        known = self.cases.setdefault(engine, {}).get(test)
        if known is None or _RANK[case["outcome"]] >= _RANK[known["outcome"]]:
            self.cases[engine][test] = case

    def write(self, folder: Path, process: str) -> None:
        """Adds to what this process has written before: a part of the suite renews its own cases."""
        if not self.cases:
            return
        path = folder / f"{process}.json"
        kept = read_file(path)
        for engine, tests in self.cases.items():
            kept.setdefault("cases", {}).setdefault(engine, {}).update(tests)
            if any(case["outcome"] == "passed" for case in tests.values()):
                kept.setdefault("against", {})[engine] = version_of(engine)
        path.write_text(json.dumps(kept, ensure_ascii=False, indent=1), "utf-8")


def read_file(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def version_of(engine: str) -> str:
    """What the suite ran against, by its own word."""
    if engine == "ray":
        from ray_cluster import ray_command

        return _said([ray_command(), "--version"])
    if engine == "kubernetes":
        from kube_cluster import _binary

        return _said([_binary("kube-apiserver") or "kube-apiserver", "--version"])
    if engine == "slurm":
        return _said([shutil.which("slurmctld") or "/usr/sbin/slurmctld", "-V"])
    return f"suan {importlib.metadata.version('suan')}"


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "a version that it does not tell"
