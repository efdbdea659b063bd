"""A site's machine: its cluster, its agent, and what looks for runs that nobody should have left there."""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from clusters import CLUSTERS, Cluster, Table
from messages import BadLine
from programs import Program, stepped_clock

_AGENT = "agent"


class SiteHost:
    def __init__(self, engine: str, name: str, address: str, folder: Path) -> None:
        self._name, self._address, self._folder = name, address, folder
        self._cluster: Cluster = CLUSTERS[engine](folder)
        self._described: Table = {}
        self._agent: Program | None = None
        self._clock = folder / "clock"

    def open(self, prices: Table) -> list[str]:
        """Starts the cluster; the daemons of it that can be killed."""
        self._described = self._cluster.open(prices)
        return list(self._cluster.daemons)

    def join(self, url: str, token: str, more: Table, store_mib: int = 0) -> None:
        """Starts the agent. `more`: keys of site.toml. With `store_mib` its store is a disk of that size."""
        if store_mib:
            self._small_store(store_mib)
        self._line = BadLine(
            url, self._address
        )  # not loopback, on which the grid would be this machine's own
        table = {"site": self._name, "url": self._line.url, "state": str(self._folder / "state"), **more}
        config = self._folder / "site.toml"
        lines = [f"{name} = {toml_value(value)}" for name, value in (table | self._described).items()]
        config.write_text("\n".join(lines) + "\n")
        arguments = ["join", "--config", str(config)]
        environment = {**stepped_clock(self._clock), "SUAN_TOKEN": token}
        self._agent = Program(self._folder, _AGENT, arguments, environment)
        self._agent.start()

    def kill(self, part: str) -> None:
        """kill -9 to the agent, or to a daemon of the cluster."""
        if part == _AGENT:
            assert self._agent is not None
            self._agent.kill()
        else:
            self._cluster.kill(part)

    def restore(self, part: str) -> None:
        if part == _AGENT:
            assert self._agent is not None
            self._agent.start()
        else:
            self._cluster.restore(part)

    def set_clock(self, seconds: int) -> None:
        """The agent's clock of the day is off by so much from now on."""
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._clock)

    def alive(self) -> bool:
        return self._agent is not None and self._agent.is_running

    def runs(self) -> dict[str, int]:
        """Run -> processes of it on this machine, supervisors included. All of the site's nodes are here."""
        found: dict[str, int] = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                run = next((v for v in environment if v.startswith(b"SUAN_RUN_ID=")), b"")
                if run:
                    run_id = run.partition(b"=")[2].decode()
                    found[run_id] = found.get(run_id, 0) + 1
        return found

    def muddle(self, ratio: float) -> dict[str, int]:
        """This part of the agent's messages come twice or late from now on; counts of those so far."""
        return self._line.muddle(ratio)

    def _small_store(self, size_mib: int) -> None:
        """A file system of its own for the store; it goes with the machine."""
        store = self._folder / "state" / "store"
        store.mkdir(parents=True)
        options = f"size={size_mib}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "store", str(store)], check=True)

    def fill_store(self) -> int:
        """Fills that disk up; bytes written."""
        written = 0
        with open(self._ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                written += file.write(bytes(1 << 12))
        return written

    def empty_store(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self._folder / "state" / "store" / "ballast"

    def stop(self) -> None:
        if self._agent is not None:
            self._agent.end(patience_s=15.0)
        self._cluster.close()


def toml_value(value: Any) -> str:
    """A value on one line; JSON's strings and numbers are TOML's, too."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(name)} = {toml_value(inner)}" for name, inner in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value)
