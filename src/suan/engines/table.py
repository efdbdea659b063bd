"""The engines there are, one row each: how a site opens it, given what its site.toml says.

Knows names; an engine's module is imported when it is opened. A row takes (folder, declared pools, options)
and gives (the engine, what it found and what it lacks, a line each).
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

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
