"""What a site is, from a site.toml and the options over it.

Knows the keys, their limits and how `NAME:ACCELERATOR:NODESxDEVICES` is spelt. Documented in
docs/reference/cli.md.
"""

import os
import platform
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from suan.grid.error import Refused
from suan.grid.hardware import accelerator
from suan.grid.site import Pool
from suan.grid.units import BYTES_PER_GIB, microyuan

_POOL = re.compile(r"([a-z0-9][a-z0-9._-]*):([A-Za-z0-9][A-Za-z0-9 ._-]*):(\d+)x(\d+)")
_ALL_NODES = 1 << 30
_THIS_CPU = "CPU-ARM" if platform.machine() in ("aarch64", "arm64") else "CPU-x86"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PoolTable(_Table):
    """One `[[pool]]`. CPU is this machine's kind; cores and memory left out are its own."""

    name: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    accelerator: str
    nodes: int = Field(default=1, gt=0)
    devices_per_node: int = Field(gt=0)
    cpus_per_node: float | None = Field(default=None, gt=0)
    memory_gib_per_node: float | None = Field(default=None, gt=0)
    machine_yuan_per_device_h: float = Field(default=0, ge=0)
    device_w: float | None = Field(default=None, ge=0)
    host_w_per_node: float = Field(default=0, ge=0)
    preemption_per_h: float = Field(default=0, ge=0)
    speed_ratio: float = Field(default=1, gt=0)

    def noun(self, nodes: int | None = None) -> Pool:
        """The pool, its accelerator by its canonical name; with `nodes`, of so many.

        Raises: Refused `unknown_accelerator`.
        """
        kind = accelerator(_THIS_CPU if self.accelerator.upper() == "CPU" else self.accelerator)
        cores = self.devices_per_node if kind.device_class == "cpu" else os.cpu_count() or 1
        return Pool(
            name=self.name,
            accelerator=kind.name,
            nodes=nodes or self.nodes,
            devices_per_node=self.devices_per_node,
            cpus_per_node=self.cpus_per_node or float(cores),
            memory_gib_per_node=self.memory_gib_per_node or _memory_gib(),
            machine_microyuan_per_device_h=microyuan(self.machine_yuan_per_device_h),
            device_w=self.device_w,
            host_w_per_node=self.host_w_per_node,
            preemption_per_h=self.preemption_per_h,
            speed_ratio=self.speed_ratio,
        )


class SiteTable(_Table):
    """A site.toml."""

    site: str = Field(min_length=1)
    url: str = Field(min_length=1)
    state: Path
    region: str = ""
    labels: dict[str, str] = {}
    store: str = ""  # folder or s3://BUCKET/PREFIX; "" = STATE/store
    data_host: str = "127.0.0.1"
    data_port: int = Field(default=0, ge=0, le=65535)
    data_url: str = ""
    data_relay: bool = False
    emulate_links: bool = False
    redfish: str = ""  # this machine's management controller, https://USER@HOST; engine local only
    redfish_password_file: Path | None = None
    redfish_certificate: Path | None = None  # the controller's own
    engine: str = "local"
    engine_options: dict[str, str] = {}
    pool: list[PoolTable] = []  # none: what the machine or the cluster has

    @property
    def folder(self) -> Path:
        return self.state

    def pools_of_nouns(self) -> tuple[Pool, ...]:
        """The declared pools; with none declared, what this machine turns out to have. Of a cluster only the
        declared ones: the engine knows the others. One whose nodes are not counted has as many as the
        cluster.
        """
        if self.engine != "local":
            return tuple(
                table.noun(nodes=None if "nodes" in table.model_fields_set else _ALL_NODES)
                for table in self.pool
            )
        if not self.pool:
            from suan.engines.discovery import local_pools

            return local_pools()
        return tuple(table.noun() for table in self.pool)


def read_site(config: Path | None, given: dict[str, Any]) -> SiteTable:
    """The site that the file describes, with the options that were given over it.

    Raises: Refused `bad_site`, `bad_pool`, `unknown_accelerator`.
    """
    table: dict[str, Any] = {}
    if config is not None:
        try:
            table = tomllib.loads(config.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Refused("bad_site", f"{config}: {error}", hint="see docs/reference/cli.md") from error
    named = {"folder": "state", "pools": "pool"}
    for option, value in given.items():
        if value is not None and value != ():
            table[named.get(option, option)] = value
    if given.get("engine_options"):
        table["engine_options"] = dict(_named_option(text) for text in given["engine_options"])
    if given.get("pools"):
        table["pool"] = [pool_table(text) for text in given["pools"]]
    if missing := [f"--{name}" for name in ("site", "state") if not table.get(name)]:
        raise Refused("bad_site", f"a site needs {', '.join(missing)}", hint="suan join --help")
    table.setdefault("url", os.environ.get("SUAN_URL", ""))
    if not table["url"]:
        raise Refused("bad_site", "which grid is it to join?", hint="suan join URL --site NAME …")
    try:
        described = SiteTable.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(
            "bad_site", f"{config or 'options'}: {where}: {first['msg']}", hint="see docs/reference/cli.md"
        ) from error
    names = [pool.name for pool in described.pool]
    if len(set(names)) < len(names):
        raise Refused("bad_pool", "two pools have one name", hint="name each pool once")
    described.pools_of_nouns()
    return described


def _named_option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Refused("bad_engine_option", f"{text!r} is no NAME=VALUE", hint="write NAME=VALUE")
    return name, value


def pool_table(text: str) -> dict[str, Any]:
    """`cpu:CPU:1x8` as a `[[pool]]`.

    Raises: Refused `bad_pool`.
    """
    match = _POOL.fullmatch(text)
    if match is None:
        raise Refused(
            "bad_pool", f"{text!r} is no pool", hint="write NAME:ACCELERATOR:NODESxDEVICES, as in cpu:CPU:1x8"
        )
    name, kind, nodes, devices = match.groups()
    return {"name": name, "accelerator": kind, "nodes": int(nodes), "devices_per_node": int(devices)}


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / BYTES_PER_GIB
