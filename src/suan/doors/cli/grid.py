"""Verbs on a whole grid: up, down.

Knows how a grid is started, in the foreground or detached, and how the detached one is found again and ended.
What a grid is made of is `control/config.py`'s, how it is served `doors/rest/serve.py`'s.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from suan.doors.cli import process as processes
from suan.doors.cli.session import print_json, write_config
from suan.grid.error import NotNow, Refused

Json = dict[str, Any]
_START_S = 60.0
_STOP_S = 30.0
_NOTE = "grid.process.json"

_STATE = click.option(
    "--state",
    "folder",
    default="./state/grid",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The grid's folder.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Exact JSON on standard output, nothing else.")


@click.command()
@_STATE
@click.option("--config", type=click.Path(path_type=Path), help="Settings as TOML; the options here win.")
@click.option(
    "--journal", help="postgres://USER@HOST/DB, for one or several control planes [a file below --state]."
)
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one [8700].")
@click.option("--public-url", help="What others call it by, when that is not host and port.")
@click.option("--log", type=click.Choice(["text", "json"]), help="How it logs [text].")
@click.option("--trace-url", metavar="URL", help="An OpenTelemetry collector, http://HOST:4318.")
@click.option("--detach", is_flag=True, help="Leave it running; `suan down` stops it.")
@_JSON
def up(*, folder: Path, config: Path | None, detach: bool, as_json: bool, **settings: Any) -> None:
    """Run a grid on this machine: journal, loop, REST and the OpenAI-compatible API, all below --state.

    Its address and its admin's key go into the client's file, so that the other verbs find it.
    """
    folder = folder.absolute()
    if (running := _running(folder)) is not None:
        url = _noted(folder).get("url", "an address not told yet")
        raise Refused(
            "already_up",
            f"process {running.pid} runs the grid in {folder} at {url}",
            hint="suan jobs, or suan down",
        )
    if detach:
        _start_detached(folder, as_json=as_json)
        return
    from suan.control.config import read_config
    from suan.doors.rest.serve import serve

    def ready(url: str) -> None:
        note = processes.this_process()
        assert note is not None, "this process exists"
        processes.save(folder / _NOTE, note)
        key = folder / "admin.key"  # not where another control plane of this grid was the first
        saved = write_config(url, key.read_text("utf-8").strip()) if key.exists() else ""
        _say_up(folder, url, str(saved), as_json=as_json)

    # The server hands the signal on when it has ended; the journal is to be closed all the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(read_config(config, folder=folder, **settings), ready)
    except KeyboardInterrupt:
        if not as_json:
            print("the grid has stopped; its journal is whole, suan up goes on from there")
    finally:
        (folder / _NOTE).unlink(missing_ok=True)


def _say_up(folder: Path, url: str, saved: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url, "pid": os.getpid(), "state": str(folder), "client_config": saved})
        return
    keys = f"your key in {saved}" if saved else "your key where the grid was started first"
    print(f"the grid answers at {url}; its state is in {folder}, {keys}")
    print("next: suan join-token NAME, then suan join for each site; suan doctor checks it all", flush=True)


def _start_detached(folder: Path, *, as_json: bool) -> None:
    """The same command line without --detach, in a session of its own.

    Raises: Refused `did_not_start` with the last line that it wrote.
    """
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--detach", "--json")]
    log = folder / "grid.log"
    (folder / "grid.json").unlink(missing_ok=True)  # of a grid that was killed: what answers is the new one
    began_at = log.stat().st_size if log.exists() else 0
    process = processes.start([sys.executable, "-m", "suan.doors.cli.main", *arguments], log)
    deadline_s = time.monotonic() + _START_S
    while not ((folder / _NOTE).exists() and _noted(folder)):
        if not process.alive or time.monotonic() > deadline_s:
            process.end(5.0)
            said = log.read_bytes()[began_at:].decode("utf-8", "replace").strip().splitlines()
            raise Refused(
                "did_not_start", "; ".join(said[-2:]) or "the grid did not start", hint=f"see {log}"
            )
        time.sleep(0.05)
    url = str(_noted(folder)["url"])
    if as_json:
        print_json({"url": url, "pid": process.pid, "state": str(folder), "log": str(log)})
    else:
        print(f"the grid answers at {url}; it runs as process {process.pid} and writes to {log}")
        print(f"next: suan doctor; stop it: suan down --state {folder}")


@click.command()
@_STATE
@_JSON
def down(*, folder: Path, as_json: bool) -> None:
    """Stop the grid that runs on --state. Runs go on until their sites' leases end; `suan up` finds them."""
    folder = folder.absolute()
    running = _running(folder)
    if running is None:
        raise Refused(
            "not_up", f"no grid runs on {folder}", hint="suan up, or name its folder: suan down --state DIR"
        )
    running.signal(signal.SIGTERM)
    if not running.wait(_STOP_S):
        raise NotNow(
            "still_stopping",
            f"process {running.pid} has not ended in {_STOP_S:.0f} s",
            hint=f"suan down --state {folder}",
        )
    if as_json:
        print_json({"pid": running.pid, "state": str(folder), "stopped": True})
    else:
        print(f"the grid in {folder} has stopped")


def _running(folder: Path) -> processes.Process | None:
    """The process that runs this grid: the one that wrote itself down, if it is still that one."""
    found = processes.load(folder / _NOTE)
    return found if found is not None and found.alive else None


def _noted(folder: Path) -> Json:
    """{url, pid} of the grid that answers; empty while none does."""
    try:
        found = json.loads((folder / "grid.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
