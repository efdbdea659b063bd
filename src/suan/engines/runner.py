"""An agent and its grid, connected: reports out, orders in, logs after them.

Knows when to speak and when to try again. Does not know what orders mean (`agent.py`) or how bytes travel: a
`GridDoor` is the REST client, or the grid itself when both are in one process (`direct.py`).

Three threads. One looks at the site several times a second and reports at once what changed; one waits at the
grid for news (a long poll); one brings logs. Whatever says what is there goes through one lock, in order: an
older look at the site never overtakes a newer one.

Losing the grid changes nothing here: reports are tried again, runs go on until their lease ends, and then
their supervisors stop them. SIGTERM ends the agent and leaves runs to their supervisors: the next agent finds
them. To close a site, set `stop_runs` (SIGINT does): its runs are stopped and their ends reported before
`run_agent` returns.
"""

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from suan.engines.agent import Agent
from suan.engines.shipping import LogShipper
from suan.grid.action import Observation, Orders, RunSeen, TransferSeen
from suan.grid.error import Refused, SuanError
from suan.grid.job import RunPhase

log = logging.getLogger("suan.agent")

LOOK_S = 0.2  # between two looks at the site
FULL_S = 30.0  # between two full reports
PROGRESS_S = 1.0  # between two reports that say nothing but how far a run is
LONGEST_WAIT_S = 10.0  # of a long poll; never more than a third of the lease
_LONGEST_PAUSE_S = 1.0  # between two tries to reach a grid
_LOG_PATIENCE_S = 5.0  # how long an end waits for its log to be brought
_CLOSING_S = 30.0  # how long a closing site tries to report its ends, once they have ended


class GridDoor(Protocol):
    """What an agent asks of its grid; `doors.client.Client` is one. Raises: SuanError."""

    def report(self, observation: Observation, wait_s: float = 0, known: int = 0) -> Orders: ...

    def append_log(self, site: str, run: str, offset: int, data: bytes) -> int: ...


def run_agent(
    agent: Agent,
    grid: GridDoor,
    stop: threading.Event,
    *,
    stop_runs: threading.Event | None = None,
    grace_s: int = 10,
) -> None:
    """Drives the agent until `stop`. With `stop_runs` set by then, stops every run, `grace_s` from SIGTERM to
    SIGKILL, and waits for their ends.

    Raises: Refused `site_key_refused` when the grid does not take this site's key, or does not know the site.
    """
    runner = _Runner(agent, grid, stop)
    runner.run()
    if stop_runs is not None and stop_runs.is_set() and runner.fatal is None:
        runner.close_site(grace_s)
    if runner.fatal is not None:
        raise runner.fatal


def obey_signals(stop: threading.Event, stop_runs: threading.Event) -> None:
    """SIGTERM: end, leave the runs. SIGINT, or SIGTERM a second time: stop them, too. Main thread only."""

    def end(number: int, _: object) -> None:
        if number == signal.SIGINT or stop.is_set():
            stop_runs.set()
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


class _Runner:
    def __init__(self, agent: Agent, grid: GridDoor, stop: threading.Event) -> None:
        self.fatal: Refused | None = None
        self._agent, self._grid, self._stop = agent, grid, stop
        self._posting = threading.Lock()
        self._told: dict[str, RunSeen] = {}  # what the grid has confirmed
        self._told_transfers: tuple[TransferSeen, ...] = ()
        self._told_at_s = float("-inf")
        self._full_at_s = float("-inf")  # a full report is due when this is long ago
        self._version = 0
        self._lease_s = 3  # until the grid has said
        self._forget_later: set[str] = set()
        self._ended_at_s: dict[
            str, float
        ] = {}  # run -> when its end was first seen, while its log is brought
        self._shipper = LogShipper(agent, grid)
        self._absent = False  # the grid did not answer the last time
        self._ship_now = threading.Event()
        self._halted: Callable[[], bool] = stop.is_set  # logs are not brought any more

    # ------------------------------------------------------------ threads

    def run(self) -> None:
        others = [
            threading.Thread(target=self._wait_for_news, name="orders", daemon=True),
            threading.Thread(target=self._bring_logs, name="logs", daemon=True),
        ]
        self._say()  # the first orders come before the first wait for news
        for thread in others:
            thread.start()
        while not self._stop.is_set():
            self._agent.changed.wait(LOOK_S)
            self._agent.changed.clear()
            self._say()
        self._ship_now.set()
        others[1].join()  # the long poll ends by itself; nothing waits for it

    def close_site(self, grace_s: int) -> None:
        """Stops every run; returns when their ends have been told, or cannot be."""
        self._halted = lambda: False
        self._agent.stop_runs(grace_s)
        deadline_s = time.monotonic() + grace_s + _CLOSING_S
        telling_s = 0.0
        while time.monotonic() < deadline_s and telling_s < _LOG_PATIENCE_S:
            self._persist(self._ship)
            self._say()
            seen = self._agent.step(None, full=False)
            if all(run.phase is RunPhase.ENDED for run in seen.runs):
                if all(self._told.get(run.run) == run for run in seen.runs):
                    return
                telling_s += LOOK_S
            time.sleep(LOOK_S)

    def _say(self) -> None:
        """Reports what changed, everything when that is due. Waits a little when the grid does not answer."""
        self._persist(self._report_changes)

    def _wait_for_news(self) -> None:
        while not self._stop.is_set():
            self._persist(self._poll)

    def _bring_logs(self) -> None:
        while not self._stop.is_set():
            self._ship_now.wait(LOOK_S)
            self._ship_now.clear()
            self._persist(self._ship)

    def _ship(self) -> None:
        if self._shipper.ship(self._halted):
            self._agent.changed.set()  # an end may have waited for it

    def _persist(self, work: Callable[[], None]) -> None:
        """Does it until it succeeds or the agent ends."""
        pause_s = 0.1
        while True:
            try:
                return work()
            except SuanError as error:
                if _is_final(error):
                    return self._give_up(error)
                self._note_absence(error)
            except Exception:  # a bug here must not end a site
                log.exception("the agent stumbled")
            self._full_at_s = float("-inf")  # a grid that was away may have been started anew
            if self._stop.wait(pause_s * random.uniform(0.7, 1.0)):
                return None
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _note_absence(self, error: SuanError | None) -> None:
        """Says once that the grid does not answer, and once that it does again."""
        if error is not None and not self._absent:
            log.warning("%s; trying again until it answers", error.what)
        if error is None and self._absent:
            log.warning("the grid answers again")
        self._absent = error is not None

    def _give_up(self, error: SuanError) -> None:
        site = self._agent.site
        self.fatal = Refused(
            "site_key_refused",
            f"the grid does not take {site} for one of its sites: {error.what}",
            hint=f"join again with a new token: suan join --site {site} --token TOKEN",
            status=error.status,
        )
        self._stop.set()

    # ------------------------------------------------------------ reports

    def _report_changes(self) -> None:
        with self._posting:
            full = time.monotonic() - self._full_at_s > FULL_S
            seen = self._agent.step(None, full=full)
            self._forget()
            seen = replace(seen, runs=tuple(self._with_log(run) for run in seen.runs))
            runs = tuple(run for run in seen.runs if self._told.get(run.run) != run)
            if not full and not self._worth_telling(runs, seen.transfers):
                return
            asked_s = time.monotonic()
            orders = self._grid.report(seen if full else replace(seen, runs=runs))
            if orders.epoch == seen.epoch:  # what is said under another epoch does not count
                self._told = {run.run: run for run in seen.runs}
                self._told_transfers = seen.transfers
                self._told_at_s = asked_s
                if full:
                    self._full_at_s = asked_s
        self._obey(orders, asked_s)

    def _worth_telling(self, runs: tuple[RunSeen, ...], transfers: tuple[TransferSeen, ...]) -> bool:
        """What somebody waits for goes at once, mere progress once a second."""
        if not runs and transfers == self._told_transfers:
            return False
        if time.monotonic() - self._told_at_s > PROGRESS_S:
            return True
        finished = {transfer.transfer for transfer in transfers if transfer.done or transfer.failed}
        told = {transfer.transfer for transfer in self._told_transfers if transfer.done or transfer.failed}
        return finished != told or any(_landmark(run) != _landmark(self._told.get(run.run)) for run in runs)

    def _with_log(self, run: RunSeen) -> RunSeen:
        """An end waits until the last line of its log is at the grid, but not for long."""
        if run.phase is not RunPhase.ENDED or self._shipper.has_all(run.run):
            self._ended_at_s.pop(run.run, None)
            return run
        since_s = self._ended_at_s.setdefault(run.run, time.monotonic())
        if time.monotonic() - since_s > _LOG_PATIENCE_S:
            return run
        self._ship_now.set()
        return RunSeen(
            run=run.run, phase=RunPhase.STOPPING, started_at_s=run.started_at_s, progress=run.progress
        )

    def _poll(self) -> None:
        wait_s = min(LONGEST_WAIT_S, self._lease_s / 3)
        empty = Observation(site=self._agent.site, epoch=self._agent.epoch)
        asked_s = time.monotonic()
        self._obey(self._grid.report(empty, wait_s, self._version), asked_s)

    # ------------------------------------------------------------ orders

    def _obey(self, orders: Orders, asked_s: float) -> None:
        """`asked_s` is when the report went out: the lease that it earned counts from then at the latest."""
        self._note_absence(None)
        self._forget_later = {run for run in orders.forget if not self._shipper.has_all(run)}
        ready = tuple(run for run in orders.forget if run not in self._forget_later)
        self._agent.step(replace(orders, forget=ready), full=False, age_s=time.monotonic() - asked_s)
        self._version = orders.version
        self._lease_s = orders.lease_s
        self._agent.changed.set()

    def _forget(self) -> None:
        """Runs that were to be forgotten before their log was brought."""
        ready = {run for run in self._forget_later if self._shipper.has_all(run)}
        self._forget_later -= ready
        if ready:
            self._agent.forget(sorted(ready))


def _landmark(run: RunSeen | None) -> tuple[object, ...]:
    return () if run is None else (run.phase, run.started_at_s, run.endpoint, run.progress.get("phase"))


def _is_final(error: SuanError) -> bool:
    """Whether trying again cannot help: the key is no good, or the site is unknown."""
    return error.status in (401, 403) or error.code == "unknown_site"
