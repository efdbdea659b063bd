"""How a grid is set up, and the one place that puts its parts together.

Knows every concrete adapter. Does not know HTTP: `doors/rest/serve.py` puts a server around what is opened.
"""

import contextlib
import os
import secrets
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from suan.control.clock import SystemClock
from suan.control.commands import first_start, new_secret
from suan.control.leader import Plane
from suan.control.loop import Command, Grid
from suan.engines.agent import Agent
from suan.engines.direct import DirectDoor
from suan.engines.runner import run_agent
from suan.grid.error import Refused
from suan.grid.fact import Fact
from suan.grid.site import GRID_SITE
from suan.grid.state import State
from suan.journals.sqlite import SqliteJournal
from suan.rules.policy import Policy
from suan.stores.artifacts import ArtifactStore, open_store
from suan.stores.door import DataDoor
from suan.stores.logs import LogFolder
from suan.stores.mover import ChunkMover

ENVIRONMENT = "SUAN_GRID_"
_HISTORY_FACTS = 20_000  # kept for event streams that resume
_ANYWHERE = ("0.0.0.0", "::", "")


class GridConfig(BaseModel):
    """A grid's settings: a TOML file, over it SUAN_GRID_NAME variables, over those what a caller names."""

    model_config = ConfigDict(extra="forbid")

    folder: Path
    journal: str = ""  # "" for FOLDER/grid.sqlite; postgres://… can be shared by several control planes
    plane_url: str = ""  # how the other planes call this one, when that is not host and port
    host: str = "127.0.0.1"
    port: int = Field(default=8700, ge=0, le=65535)  # 0: a free one
    public_url: str = ""  # how others call it, when that is not host and port
    data_port: int = Field(default=0, ge=0, le=65535)  # where sites fetch uploads from; 0: a free one
    store: str = ""  # where uploads lie, "" for FOLDER/store; s3://BUCKET/PREFIX
    emulate_links: bool = False  # the grid's own store waits links' round trips
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    log: str = "text"  # or json: one object a line, with what happens to jobs and sites
    trace_url: str = ""  # an OpenTelemetry collector for OTLP over HTTP, http://HOST:4318; "" for none
    policy: dict[str, Any] = {}  # over rules/policy.py's defaults


def read_config(
    path: Path | None = None, *, environment: Mapping[str, str] | None = None, **settings: Any
) -> GridConfig:
    """The settings from a file, the environment and the caller, the later ones winning.

    Raises: Refused `bad_config` with the setting's name.
    """
    found: dict[str, Any] = {}
    if path is not None:
        try:
            found = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise Refused(
                "bad_config", f"{path} cannot be read: {error}", hint="see docs/reference"
            ) from error
    variables = os.environ if environment is None else environment
    for name in GridConfig.model_fields:
        value = variables.get(ENVIRONMENT + name.upper())
        if value is not None and name != "policy":
            found[name] = value
    found |= {name: value for name, value in settings.items() if value is not None}
    try:
        config = GridConfig(**found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused("bad_config", f"{where}: {first['msg']}", hint=f"settings: {_settings()}") from error
    policy_of(config)
    return config


def policy_of(config: GridConfig) -> Policy:
    """Raises: Refused `bad_config` for a number that no policy has."""
    strange = sorted(config.policy.keys() - set(Policy.__struct_fields__))
    if strange:
        raise Refused(
            "bad_config",
            f"policy.{strange[0]} is no setting",
            hint=f"there are: {', '.join(Policy.__struct_fields__)}",
        )
    try:
        return msgspec.convert(config.policy, Policy)
    except msgspec.ValidationError as error:
        raise Refused("bad_config", f"policy: {error}", hint="see rules/policy.py") from error


@dataclass(slots=True)
class OpenGrid:
    """A grid with everything it stands on. `start` it after the doors listen to it; `close` it last."""

    config: GridConfig
    grid: Grid
    logs: LogFolder
    store: ArtifactStore
    history: list[tuple[int, Fact]]
    admin_key: Path
    _door: DataDoor
    _mover: ChunkMover
    _agent: Agent
    _direct: DirectDoor
    _stop: threading.Event
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the loop, and the agent of the grid's own store."""
        self.grid.start()
        self._thread = threading.Thread(
            target=run_agent, args=(self._agent, self._direct, self._stop), name="grid-agent", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends agent, data door and loop, in this order. What was accepted is durable already."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=15)
        self._direct.close()
        self._agent.close()
        self._mover.close()
        self._door.close()
        self.grid.stop()


def open_grid(config: GridConfig) -> OpenGrid:
    """The grid whose state is in `config.folder`, made there at its first start, not started yet.

    The first start writes FOLDER/admin.key (mode 600), an admin's key of the tenant `default`.

    Raises: Refused `journal_in_use`, `journal_corrupt`, `bad_store`, `port_in_use` …
    """
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(
        OSError
    ):  # another owner's folder: the secrets in it are closed to others all the same
        folder.chmod(0o700)
    admin_key = folder / "admin.key"
    grid, history = _shared_grid(config, admin_key) if config.journal else _own_grid(config, admin_key)
    try:
        store = open_store(config.store or folder / "store")
    except BaseException:
        grid.stop()
        raise
    door = _data_door(config, store)
    mover = ChunkMover(store)
    agent = Agent(
        site=GRID_SITE, store=store, folder=folder / "agent", clock=SystemClock(), mover=mover, door=door
    )
    logs = LogFolder(folder / "logs")
    direct = DirectDoor(grid, logs)
    return OpenGrid(
        config, grid, logs, store, history, admin_key, door, mover, agent, direct, threading.Event()
    )


def _own_grid(config: GridConfig, admin_key: Path) -> tuple[Grid, list[tuple[int, Fact]]]:
    """(the grid on the folder's own journal, its newest facts)"""
    journal = SqliteJournal(config.folder / "grid.sqlite")
    try:
        history = list(journal.read(max(0, journal.head() - _HISTORY_FACTS)))
        secret = _secret(config.folder / "secret")
        grid = Grid(journal, SystemClock(), policy_of(config), secret=secret.encode())
        grid.do(_first(grid.state, admin_key))
        history.extend(journal.read(history[-1][0] if history else 0))
    except BaseException:
        journal.close()
        raise
    return grid, history


def _shared_grid(config: GridConfig, admin_key: Path) -> tuple[Plane, list[tuple[int, Fact]]]:
    """(one plane of the grid on a shared journal, that journal's newest facts)"""
    if urlsplit(config.journal).scheme not in ("postgres", "postgresql"):
        raise Refused(
            "bad_config", f"journal: {config.journal[:80]!r} is none", hint="write postgres://USER@HOST/DB"
        )
    try:
        from suan.journals.postgres import PostgresJournal
    except ImportError as error:
        raise Refused(
            "no_postgres",
            f"a journal in PostgreSQL needs psycopg: {error}",
            hint="pip install suan[postgres]",
        ) from error
    journal = PostgresJournal(config.journal)
    try:
        plane = Plane(
            journal,
            SystemClock(),
            policy_of(config),
            first=lambda state: _first(state, admin_key),
            secret=journal.secret.encode(),
        )
        return plane, list(journal.read(max(0, plane.state.sequence - _HISTORY_FACTS)))
    except BaseException:
        journal.close()
        raise


def _first(state: State, admin_key: Path) -> Command[None]:
    """What a grid does first; at its very first start its admin's key lies in the file before that."""
    if not state.keys:
        # The file first: a start that is cut off here does it again; the key is worth nothing until then.
        _write_private(admin_key, new_secret())
    return first_start(admin_key.read_text("utf-8").strip() if not state.keys else "")


def _data_door(config: GridConfig, store: ArtifactStore) -> DataDoor:
    door = DataDoor(store, config.host, config.data_port, emulate_links=config.emulate_links)
    name = urlsplit(config.public_url).hostname
    if config.host in _ANYWHERE and name:
        door.url = f"http://{name}:{urlsplit(door.url).port}"
    return door


def _secret(path: Path) -> str:
    """What tickets are made of; the same for as long as the folder exists."""
    if not path.exists():
        _write_private(path, secrets.token_hex(32))
    return path.read_text("ascii").strip()


def _write_private(path: Path, text: str) -> None:
    """All or nothing, durable, for this user alone."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _settings() -> str:
    return ", ".join(GridConfig.model_fields)
