"""The verb doctor: looks at this machine and at the grid, and says for each finding what to do.

Every check is one function that gives a Finding; none of them changes anything.
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, config_path, grid_verb
from suan.grid.error import SuanError

Json = dict[str, Any]
OK, WARN, FAIL = "ok", "warn", "fail"
_COLOURS = {OK: render.GREEN, WARN: render.YELLOW, FAIL: render.RED}
_LEAST_FREE_GB = 5
_MOST_SKEW_S = 5.0  # the policy's margin between a lease's end here and there
_OLDEST_PYTHON = (3, 11)


class Finding(NamedTuple):
    check: str
    verdict: str  # ok | warn | fail
    what: str
    do: str = ""  # what to type or to change, "" when all is well


@click.command()
@click.option("--state", "folder", default="./state", show_default=True, type=click.Path(path_type=Path))
@grid_verb
def doctor(session: Session, folder: Path) -> int:
    """Check this machine and the grid, and say what to do. Exits 1 when something fails."""
    findings = [*_machine(folder), *_grid(session)]
    failed = any(finding.verdict == FAIL for finding in findings)

    said = {"ok": not failed, "findings": [finding._asdict() for finding in findings]}
    session.answer(said, lambda: print_findings(findings))
    return int(failed)


def print_findings(findings: Sequence[Finding]) -> None:
    """A line each, and below it what to do."""
    wide = max(render.width(finding.check) for finding in findings)
    for finding in findings:
        verdict = render.paint(f"{finding.verdict:<4}", _COLOURS[finding.verdict])
        print(f"{verdict}  {finding.check:<{wide}}  {render.clean(finding.what)}")
        if finding.do:
            print(f"      {'':<{wide}}  → {finding.do}")


# ---------------------------------------------------------------- this machine


def _machine(folder: Path) -> Iterator[Finding]:
    yield _python()
    yield _state(folder)
    yield _disk(folder)
    yield _accelerators()
    yield _torch()


def _python() -> Finding:
    said = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("python", FAIL, said, "use Python 3.11 or newer")
    return Finding("python", OK, said)


def _nearest(folder: Path) -> Path:
    path = folder.absolute()
    while not path.exists():
        path = path.parent
    return path


def _state(folder: Path) -> Finding:
    nearest = _nearest(folder)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Finding(
            "state folder", FAIL, f"{nearest} cannot be written", "choose another: suan up --state DIR"
        )
    return Finding("state folder", OK, f"{folder} can be written")


def _disk(folder: Path) -> Finding:
    free_gb = shutil.disk_usage(_nearest(folder)).free / 1e9
    verdict = OK if free_gb >= _LEAST_FREE_GB else WARN
    do = "" if verdict == OK else "free some, or put --state on another disk"
    return Finding("free disk", verdict, f"{free_gb:.0f} GB beside {folder}", do)


def _accelerators() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("accelerators", OK, f"no nvidia-smi; {os.cpu_count()} CPU cores")
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            "accelerators", WARN, f"nvidia-smi does not answer: {error}", "look at the driver: nvidia-smi"
        )
    names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    kinds = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    return Finding("accelerators", OK if names else WARN, kinds or "nvidia-smi shows no device")


def _torch() -> Finding:
    """Read from the package's metadata: importing torch would take seconds."""
    if util.find_spec("torch") is None:
        do = "sites that train need it: pip install 'suan[train]' (make setup does)"
        return Finding("torch", WARN, "not installed; a grid without sites of its own needs none", do)
    version = metadata.version("torch")
    cuda = [name for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12") if _installed(name)]
    build = "CPU build" if version.endswith("+cpu") or not cuda else "CUDA build"
    if build == "CUDA build" and shutil.which("nvidia-smi") is None:
        do = "a CPU build is far smaller: make clean, make setup TORCH_INDEX=URL"
        return Finding("torch", WARN, f"{version}, {build}, but there is no NVIDIA driver", do)
    if build == "CPU build" and shutil.which("nvidia-smi") is not None:
        return Finding(
            "torch", WARN, f"{version}, {build}: the GPUs here are out of its reach", "install a CUDA build"
        )
    return Finding("torch", OK, f"{version}, {build}")


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


# ---------------------------------------------------------------- the grid


def _grid(session: Session) -> Iterator[Finding]:
    try:
        client = session.client
        asked_s = time.time()
        version = client.version()
        took_s = time.time() - asked_s
    except SuanError as error:
        yield Finding("grid", FAIL, error.what, error.hint)
        return
    yield Finding(
        "grid", OK, f"{client.url} answers in {took_s * 1000:.0f} ms, version {version.get('version', '?')}"
    )
    yield from _asked("clock", lambda: _clock(client, version))
    yield from _asked("key", lambda: [_key(client)])
    yield from _asked("sites", lambda: _sites(client))


def _asked(check: str, ask: Callable[[], Any]) -> Iterator[Finding]:
    try:
        yield from ask()
    except SuanError as error:
        yield Finding(check, FAIL, error.what, error.hint)


def _clock(client: Any, version: Json) -> Iterator[Finding]:
    """The grid's clock against ours, by its answer or by the Date header's whole seconds."""
    told = version.get("now_s")
    if told is None:
        from urllib.request import ProxyHandler, build_opener

        with build_opener(ProxyHandler({})).open(f"{client.url}/v1/version", timeout=10) as answer:
            date = answer.headers.get("date")
        if date is None:
            return
        told = parsedate_to_datetime(date).timestamp()
    skew_s = time.time() - told
    if abs(skew_s) > _MOST_SKEW_S:
        yield Finding(
            "clock",
            WARN,
            f"{skew_s:+.0f} s from the grid's",
            "keep both with NTP: leases are counted in seconds",
        )
    else:
        yield Finding("clock", OK, f"within {_MOST_SKEW_S:.0f} s of the grid's")


def _key(client: Any) -> Finding:
    who = client.whoami()
    said = f"{who['role']} of tenant {who.get('tenant') or '–'}"
    if who["role"] == "viewer":
        return Finding(
            "key", WARN, said, "a viewer submits nothing; ask an admin: suan key issue --role member"
        )
    saved = config_path()
    if saved.exists() and saved.stat().st_mode & 0o077:
        return Finding("key", WARN, f"{said}; others can read {saved}", f"chmod 600 {saved}")
    return Finding("key", OK, said)


def _sites(client: Any) -> Iterator[Finding]:
    found = [site for site in client.sites() if site.get("pools")]
    if not found:
        yield Finding(
            "sites",
            WARN,
            "none has pools: jobs will wait",
            "suan join-token NAME, then there: suan join URL …",
        )
    for site in found:
        ready = site["phase"] == "ready"
        said = f"{site['phase']}, {len(site['pools'])} pool(s)"
        do = "" if ready else f"look at its agent; it asks the grid at {client.url}"
        yield Finding(f"site {site['name']}", OK if ready else WARN, said, do)
