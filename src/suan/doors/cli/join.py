"""The verb join: runs the agent of one site in the foreground.

Knows how options or a site.toml become a site, and where its key is kept: STATE/site.json, readable by this
user only. What an agent does is `suan.engines.runner`'s.
"""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import click

from suan.doors.cli.session import Session, grid_verb
from suan.grid.error import Refused

Json = dict[str, Any]
_GRACE_S = 10


@click.command()
@click.argument("address", metavar="URL", required=False)
@click.option(
    "--token",
    envvar="SUAN_TOKEN",
    help="A one-time token: suan join-token SITE; or in SUAN_TOKEN, unseen by ps. Not needed to join again.",
)
@click.option("--site", metavar="NAME", help="The site's name.")
@click.option(
    "--state", "folder", type=click.Path(path_type=Path), help="Where the site keeps its store and its runs."
)
@click.option("--config", "config", type=click.Path(path_type=Path), help="All of it as a site.toml.")
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="NAME:ACCELERATOR:NODESxDEVICES",
    help="For example cpu:CPU:1x8; without any, what this machine turns out to have.",
)
@click.option("--engine", help="What starts its runs: local, slurm and others of engines/table.py [local].")
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="What that engine is told, for example url=http://slurmrestd:6820.",
)
@click.option("--region", help="Where it is.")
@click.option("--data-host", help="Address on which other sites fetch data [127.0.0.1].")
@click.option("--data-port", type=click.IntRange(0, 65535), help="Its port; 0 takes a free one.")
@click.option("--data-url", help="What others call that address by, when they see another.")
@click.option(
    "--data-relay",
    is_flag=True,
    default=None,
    help="Give data through the grid: for a site that other sites cannot dial.",
)
@click.option(
    "--emulate-links",
    is_flag=True,
    default=None,
    help="Wait out each link's round trip: sites on one machine.",
)
@click.option("--log", type=click.Choice(["text", "json"]), default="text", help="How it logs [text].")
@click.option(
    "--stop-runs", is_flag=True, help="SIGTERM stops the runs, too; else they go on without the agent."
)
@grid_verb
def join(
    session: Session, *, address: str | None, token: str | None, config: Path | None, **options: Any
) -> None:
    """Run the agent of a site: it dials the grid at URL and never listens for it.

    SIGTERM ends the agent and leaves its runs to go on; the next one finds them. Ctrl-C stops the runs, too.
    """
    from suan.control.logs import write_logs
    from suan.doors.cli.site_config import read_site
    from suan.engines.table import open_engine

    given = options | {"url": address or session.url_option, "pools": options["pools"] or None}
    stop_runs, log = given.pop("stop_runs"), given.pop("log")
    described = read_site(config, given)
    write_logs(log, described.site)
    folder = described.folder
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "agent.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "stop it, or give this site another --state"
            raise Refused("agent_running", f"an agent runs on {folder} already", hint=hint) from error
        engine, report = open_engine(
            described.engine, folder / "engine", described.pools_of_nouns(), described.engine_options
        )
        key = _key(folder, described, token)
        session.answer(
            {
                "site": described.site,
                "url": described.url,
                "state": str(folder),
                "pid": os.getpid(),
                "report": report,
            },
            lambda: print("\n".join((*report, _greeting(described, engine))), flush=True),
        )
        _run(described, key, engine, stop_runs=stop_runs)


def _greeting(described: Any, engine: Any) -> str:
    pools = ", ".join(
        f"{pool.name} {pool.nodes}×{pool.devices_per_node} {pool.accelerator}" for pool in engine.pools()
    )
    found = "" if described.pool else " (found here; prices are declared with --config)"
    return f"site {described.site} joins {described.url} with {pools}{found}; Ctrl-C stops it and its runs"


def _key(folder: Path, described: Any, token: str | None) -> str:
    """The site's own key: kept from an earlier time, else bought with the token.

    Raises: Refused `no_token`, `bad_token`; NotNow `grid_unreachable`.
    """
    from suan.doors.client import Client

    path = folder / "site.json"
    kept: Json = json.loads(path.read_text("utf-8")) if path.exists() else {}
    same = kept.get("site") == described.site
    if same and (not token or token == kept.get("token_used")):
        return str(kept["key"])
    if not token:
        raise Refused(
            "no_token",
            f"{described.site} has no key for {described.url} yet",
            hint=f"an operator makes a token: suan join-token {described.site}; then add --token TOKEN",
        )
    joined = Client(described.url).join(
        token, described.site, region=described.region, engine=described.engine, labels=described.labels
    )
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        # The spent token is kept so that the same command line works again; it is worth nothing now.
        json.dump(
            {"site": described.site, "url": described.url, "key": joined["key"], "token_used": token}, file
        )
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return str(joined["key"])


def _wattage(described: Any, engine: Any) -> Any:
    """The meters of this machine with its management controller; None for those found by themselves."""
    if not described.redfish:
        return None
    from suan.engines.wattage import CommonMeter, Wattage
    from suan.feeds.redfish import Redfish

    controller = Redfish(described.redfish, described.redfish_password_file, described.redfish_certificate)
    return Wattage(engine.pools(), common=CommonMeter(controller.node_w))


class _WallClock:
    def now_s(self) -> int:
        return int(time.time())


def _run(described: Any, key: str, engine: Any, *, stop_runs: bool) -> None:
    """Opens the site's parts and drives the agent until a signal ends it."""
    from suan.doors.client import Client
    from suan.doors.relay import on_this_machine, relayed_door, relayed_services, relayed_url, service_url
    from suan.engines.agent import Agent
    from suan.engines.readiness import Readiness
    from suan.engines.runner import obey_signals, run_agent
    from suan.stores.artifacts import open_store
    from suan.stores.door import DataDoor
    from suan.stores.mover import ChunkMover

    stop, stopping_runs = threading.Event(), threading.Event()
    obey_signals(stop, stopping_runs)
    if stop_runs:
        stopping_runs.set()
    folder = described.folder
    store = open_store(described.store or folder / "store")
    door = DataDoor(
        store,
        described.data_host,
        described.data_port,
        "" if described.data_relay else described.data_url,
        emulate_links=described.emulate_links,
    )
    client = Client(described.url, key)
    relays = []
    if described.data_relay:
        relays.append(relayed_door(client, described.site, door.url))
        # Others may call the grid by another name.
        door.url = described.data_url or relayed_url(client, described.site)
    # Services listen on loopback, out of reach of a grid on another machine.
    near = on_this_machine(described.url)
    readiness = Readiness("" if near else service_url(described.site))
    if not near:
        relays.append(relayed_services(client, described.site, readiness.url))
    agent = Agent(
        site=described.site,
        store=store,
        folder=folder / "agent",
        clock=_WallClock(),
        engine=engine,
        mover=ChunkMover(store),
        door=door,
        wattage=_wattage(described, engine),
        readiness=readiness,
    )
    try:
        run_agent(agent, client, stop, stop_runs=stopping_runs, grace_s=_GRACE_S)
    finally:
        for relay in relays:
            relay.close()
        agent.close()
