"""The verb quickstart: the order of things, what interruptions mean, how an earlier start is resumed."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from suan.doors.cli.quickstart import report, world
from suan.doors.cli.quickstart.chat import chat, check_finished
from suan.doors.cli.quickstart.machines import Machines, read_json, write_json
from suan.doors.cli.quickstart.screen import Screen, heading, open_screen, terminal
from suan.doors.cli.quickstart.story import Story, is_service
from suan.doors.cli.session import print_json, write_config
from suan.grid.error import NotNow, Refused

Json = dict[str, Any]
_MARK = "quickstart.json"  # says that a folder is the quickstart's own, and may be emptied


@click.command()
@click.option(
    "--pipeline", type=click.Path(path_type=Path), help="Another pipeline [examples/poet/pipeline.yaml]."
)
@click.option(
    "--state", type=click.Path(path_type=Path), envvar="SUAN_QUICKSTART_STATE", help="[./state/quickstart]"
)
@click.option("--keep", is_flag=True, help="Leave grid, sites and the served model running at the end.")
@click.option("--resume", "again", flag_value="resume", help="Go on with what is in the state folder.")
@click.option(
    "--fresh", "again", flag_value="fresh", help="Start over; what is in the state folder is removed."
)
@click.option("--stop", is_flag=True, help="Only stop what an earlier --keep left running.")
@click.option("--chat", "talks", is_flag=True, help="Serve the finished model again and talk to it.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="The summary as JSON on standard output, the rest on standard error.",
)
def quickstart(
    *,
    pipeline: Path | None,
    state: Path | None,
    keep: bool,
    again: str | None,
    stop: bool,
    talks: bool,
    as_json: bool,
) -> int:
    """A grid, two sites and one model's life on this machine: raw text, tokens, training, a poem and a bill.

    Takes about ten minutes on two cores and needs no network. Ctrl-C stops everything; run again, it
    resumes.
    """
    folder = (state or Path("state/quickstart")).absolute()
    screen = open_screen(sys.stderr if as_json else sys.stdout)
    with screen, _alone(folder):
        if stop:
            return _stop(Machines(folder, screen.say), screen)
        if talks:
            return _talk(folder, screen)
        root = world.checkout_root()
        if _starts_over(folder, again):
            _empty(folder, screen)
        folder.mkdir(exist_ok=True)
        write_json(folder / _MARK, {"what": "the quickstart's state: make quickstart"})
        if (folder / report.SUMMARY).exists() and not keep:
            summary = read_json(folder / report.SUMMARY)
            screen.say(f"finished before; start over with --fresh\n{report.summary_text(summary)}")
        else:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            play = _Play(folder, root, screen)
            try:
                summary = play.run(pipeline or root / "examples" / "poet" / "pipeline.yaml", keep=keep)
            except KeyboardInterrupt:
                screen.say(
                    "stopped, nothing is left running\n"
                    "go on: make quickstart; start over: make quickstart ARGS=--fresh"
                )
                return 130
        if as_json:
            print_json(summary)
    return 0


class _Play:
    """One start of the driver on one state folder."""

    def __init__(self, state: Path, root: Path, screen: Screen) -> None:
        self._state, self._root, self._screen = state, root, screen
        self._machines = Machines(state, screen.say)
        self._story = Story(state, self._machines, screen)
        self._before = read_json(state / "counts.json")  # of earlier, interrupted starts
        self._began_s = time.monotonic()

    def run(self, pipeline: Path, *, keep: bool) -> Json:
        """The summary, written. Everything is stopped at the end, unless that is good and to be kept."""
        stay = False
        try:
            self._story.prepare(pipeline)
            summary = self._run(keep=keep)
            stay = keep
        finally:
            self._write_counts()
            self._screen.close()
            if not stay:
                with _not_interrupted():
                    _stop(self._machines, self._screen)
        self._screen.say(
            heading("next") + "\n" + report.next_commands(self._state, self._machines.config, running=stay)
        )
        return summary

    def _run(self, *, keep: bool) -> Json:
        say = self._screen.say
        sites = " and ".join(site.name for site in world.SITES)
        say(f"starting a grid and the sites {sites} below {self._state}")
        client = self._machines.start()
        self._write_client_config(client)
        if (self._state / report.SUMMARY).exists():
            say("finished before; the grid is up again")
            return read_json(self._state / report.SUMMARY)
        persist = self._machines.persist
        persist(lambda: world.declare(client, self._root))
        for site in world.SITES:
            price = f"{site.machine_yuan_per_core_h} CNY a core-hour"
            say(f"  {site.name}: {site.province}'s tariff, PUE {site.pue:g}, {price}")
        say(f"  link: {world.LINK_MBIT_PER_S:g} Mbit/s, {world.LINK_RTT_MS:g} ms, both ways")
        if not self._story.submission["jobs"]:
            persist(lambda: self._story.put_data(client, self._root))
        names = persist(lambda: self._story.submit(client))
        say(f"submitted {self._story.submission['pipeline']}: {', '.join(names)}")
        jobs = self._story.follow(client, names)
        poem = self._poem(client, jobs)
        say(heading("evaluation"))
        say(persist(lambda: report.evaluation(client, jobs, self._state / "reports")))
        if not keep and any(is_service(job) for job in jobs):
            say("\nstopping the service, so that its bill is whole")
            jobs = self._story.end_services(client, jobs)
            self._story.wait_for_meter(client)
        self._write_counts()
        more = {**read_json(self._state / "counts.json"), "poem": poem}
        summary = persist(lambda: report.summarise(client, jobs, more))
        say(heading("bill"))
        say(persist(lambda: report.whole_bill(client, summary)))
        report.check_ledger(client)
        path = report.write_summary(self._state, summary)
        say(heading("stages") + "\n" + report.summary_text(summary) + f"\nwritten to {path}")
        return summary

    def _poem(self, client: Any, jobs: list[Json]) -> str:
        """What the served model writes; "" when the pipeline serves none."""
        from suan.doors.cli.quickstart.poem import PROMPT, write_poem

        services = [job for job in jobs if is_service(job)]
        if not services or self._story.poem:
            return self._story.poem
        model = services[0]["task"]["name"]
        self._screen.say(heading(f"a poem from {model}, by the OpenAI client at {client.url}/v1: {PROMPT}"))
        while True:
            try:
                poem = write_poem(client.url, client.key, model, self._screen.write)
                self._screen.say("")
                self._story.keep_poem(poem)
                return poem
            except NotNow:
                if not self._machines.watch():
                    raise

    def _write_client_config(self, client: Any) -> None:
        os.environ["SUAN_CONFIG"] = str(self._machines.config)
        write_config(client.url, client.key)

    def _write_counts(self) -> None:
        counts = {
            "restarts": int(self._before.get("restarts", 0)) + self._machines.restarts,
            "wall_s": round(float(self._before.get("wall_s", 0)) + time.monotonic() - self._began_s, 1),
        }
        write_json(self._state / "counts.json", counts)


def _talk(folder: Path, screen: Screen) -> int:
    """Grid and sites up again, a conversation, everything down."""
    check_finished(folder)
    machines = Machines(folder, screen.say)
    try:
        chat(machines.start(), Story(folder, machines, screen), screen)
    finally:
        with _not_interrupted():
            _stop(machines, screen)
    return 0


def _stop(machines: Machines, screen: Screen) -> int:
    """Ends what runs; 0 when it ended by itself."""
    killed = machines.stop()
    if killed:
        screen.say(f"had to be killed: {', '.join(killed)}")
    return int(bool(killed))


def _starts_over(folder: Path, again: str | None) -> bool:
    """Whether to empty the folder: as told, else as answered on a terminal, else unless unfinished."""
    if again:
        return again == "fresh"
    unfinished = (folder / "submission.json").exists() and not (folder / report.SUMMARY).exists()
    if unfinished and terminal():
        word = click.prompt(
            "an earlier start is unfinished: resume or start over?",
            type=click.Choice(("resume", "over")),
            default="resume",
        )
        return bool(word == "over")
    return not unfinished


def _empty(folder: Path, screen: Screen) -> None:
    """Stops what runs there and removes what is there.

    Raises: Refused `not_ours` for a folder that the quickstart did not make.
    """
    folder.mkdir(exist_ok=True)
    there = list(folder.iterdir())
    if there and not (folder / _MARK).is_file():
        raise Refused(
            "not_ours", f"{folder} is not the quickstart's", hint="give an empty folder: --state DIR"
        )
    _stop(Machines(folder, screen.say), screen)
    for entry in there:
        if entry.is_dir() and not entry.is_symlink():
            _remove_folder(entry)
        else:
            entry.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """Removes it; artifacts' folders are read-only, and are made writable on the way."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder: two drivers would each start what the other stops.

    Raises: NotNow `already_running`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotNow(
                "already_running", f"a quickstart runs on {folder}", hint="wait for it, or give --state DIR"
            ) from error
        yield


@contextlib.contextmanager
def _not_interrupted() -> Iterator[None]:
    """Ctrl-C waits: what is being stopped will be stopped."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
