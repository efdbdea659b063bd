"""Opens a Ray cluster as a site, and says what was found there and what it lacks."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from suan.engines.ray import RayEngine
from suan.engines.ray_api import RayApi, RayNode, token_of
from suan.engines.ray_pools import inventory, unknown_kinds
from suan.engines.table import Opened, known_options
from suan.grid.error import Refused
from suan.grid.site import Pool

OPTIONS = ("url", "token_file")
# What an engine of this kind cannot do, and why: "not yet" may change, "never" is how Ray is.
LIMITS = {
    "container image": "not yet: tasks name no image",
    "measured power": "not yet: only the agent's own machine is read; energy on nodes is modelled",
    "device indices": "never: Ray numbers a node's devices itself and tells them to the job alone",
    "pinned cores": "never: Ray counts cores and binds nothing to them",
    "agent's environment": "never: a run has its node's, without what Ray or its owner keep there",
}
_HERE = "http://127.0.0.1:8265"  # a head's dashboard on the agent's own machine


def open_ray(folder: Path, declared: Sequence[Pool], options: Mapping[str, str]) -> Opened:
    """The cluster at `url` (this machine's head without one), entered with the token in `token_file`, or with
    the one that Ray's own tools find.

    Raises: Refused `bad_engine_option`, `unknown_accelerator`; SiteTrouble `ray_unreachable`, `no_pool` or
    `ray_no_access`.
    """
    known_options("ray", options, OPTIONS)
    api = RayApi(options.get("url", _HERE), _token(options))
    engine = RayEngine(folder, declared, api)
    return engine, tuple(_report(api, engine, api.nodes()))


def _token(options: Mapping[str, str]) -> str:
    path = options.get("token_file")
    if path is None:
        return token_of(os.environ)
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(
            "bad_engine_option", f"token_file {path}: {error}", hint="name a readable file"
        ) from error


def _report(api: RayApi, engine: RayEngine, nodes: Sequence[RayNode]) -> list[str]:
    lines = [f"found: Ray {api.version()} at {api.address}, {len(nodes)} nodes"]
    for seen in inventory(engine.pools(), nodes):
        pool = seen.pool
        what = f"{pool.nodes} nodes, {pool.devices_per_node} × {pool.accelerator} each"
        free = f"{seen.free_nodes} whole nodes, {seen.free_devices} devices"
        lines.append(f"found: pool {pool.name}: {what}; free now: {free}")
    if unknown := unknown_kinds(nodes):
        lines.append(f"lacks: nodes with {', '.join(unknown)}: no accelerator is called so")
    if not any(node.used for node in nodes):
        lines.append("lacks: what others use, by node: a launch may have to wait, and is given up then")
    return lines
