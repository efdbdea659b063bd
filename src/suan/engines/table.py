"""The engines there are, one row each: how a site opens it, given what its site.toml says.

Knows names; an engine's module is imported when it is opened, or when its limits are asked for. A row takes
(folder, declared pools, options) and gives (the engine, what it found and what it lacks, a line each).
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from suan.grid.error import Refused
from suan.grid.site import Pool
from suan.ports import Engine

Opened = tuple[Engine, tuple[str, ...]]
ENGINES = {
    "local": "suan.engines.table:open_local",
    "slurm": "suan.engines.slurm_site:open_slurm",
    "ray": "suan.engines.ray_site:open_ray",
    "kubernetes": "suan.engines.kubernetes_site:open_kubernetes",
}

# What the engine of this machine cannot do, and why: "not yet" may change, "never" is how it is. Each
# engine's module has its own.
LIMITS = {
    "container image": "not yet: tasks name no image",
    "tenants apart": "never: runs are processes of the agent's own user, kept to devices by variables",
    "several machines": "never: it is one; a cluster has an engine",
}


class Limit(NamedTuple):
    """Something that an engine does not do."""

    capability: str
    when: str  # "not yet" or "never", with what it is limited to
    why: str


def limits_of(name: str) -> tuple[Limit, ...]:
    """What the engine called `name` cannot do, each with its reason."""
    module = importlib.import_module(ENGINES[name].partition(":")[0])
    return tuple(Limit(capability, *text.split(": ", 1)) for capability, text in module.LIMITS.items())


def open_engine(name: str, folder: Path, declared: Sequence[Pool], options: Mapping[str, str]) -> Opened:
    """The engine called `name`, and its report.

    Raises: Refused `unknown_engine`, `bad_engine_option`, or what the engine says of the declared pools;
    SiteTrouble when its cluster cannot be reached.
    """
    if name not in ENGINES:
        raise Refused(
            "unknown_engine", f"no engine is called {name!r}", hint=f"there are: {', '.join(ENGINES)}"
        )
    module, _, function = ENGINES[name].partition(":")
    opened: Opened = getattr(importlib.import_module(module), function)(folder, declared, options)
    return opened


def known_options(engine: str, options: Mapping[str, str], known: Sequence[str]) -> None:
    """Raises: Refused `bad_engine_option` for one that the engine does not have."""
    for name in options:
        if name not in known:
            hint = f"it has: {', '.join(known)}" if known else "it has none"
            raise Refused("bad_engine_option", f"engine {engine} has no option {name!r}", hint=hint)


def open_local(folder: Path, declared: Sequence[Pool], options: Mapping[str, str]) -> Opened:
    """This machine; `declared` is what it has, discovered or not."""
    from suan.engines.local import LocalEngine

    known_options("local", options, ())
    return LocalEngine(folder, declared), ()
