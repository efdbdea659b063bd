"""The grid's loop: facts in, state, plan, orders out.

One thread writes. Commands and reports wait in a queue; everything that waits is folded in one go and made
durable by one sync, then the callers get their answers, then the plan is made. With no thread (`start` not
called) every call is carried out at once by the caller: that is how simulated time runs the very same code.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from msgspec.structs import replace

from suan import __version__
from suan.control.execute import facts_of, kept_at, orders_for
from suan.control.observe import fence_s, observe, silences
from suan.control.works import of_new_pools
from suan.grid.action import Observation, Orders, Plan
from suan.grid.error import NotNow, Refused, SuanError
from suan.grid.fact import Fact, GridStarted, JobEnded, MarketCleared, RunEnded, SiteDescribed
from suan.grid.job import Reason
from suan.grid.state import State
from suan.ports import Clock, Journal
from suan.rules.audit import audit
from suan.rules.decide import decide, reason_for
from suan.rules.evolve import evolve, fold
from suan.rules.policy import Policy

log = logging.getLogger("suan.control")
Result = TypeVar("Result")
Command = Callable[[State, int], tuple[Sequence[Fact], Result]]
Listener = Callable[[list[tuple[int, Fact]]], None]
Decide = Callable[[State, Policy, int], Plan]
Timed = Callable[[str, float], None]  # (decide or journal_sync, seconds that it took)

MAX_BATCH = 512  # commands folded before one sync
MAX_TICK_S = 1.0  # silence is looked for at least so often


@dataclass(slots=True)
class Live:
    """What sites reported that is no fact: the newest progress of each run, and when each site was last
    heard.
    """

    progress: dict[str, dict[str, float | str]] = field(default_factory=dict)
    transfers: dict[str, int] = field(default_factory=dict)  # transfer -> bytes arrived
    heard_at_s: dict[str, int] = field(default_factory=dict)
    seen_runs: dict[str, dict[str, None]] = field(default_factory=dict)  # site -> runs it says it has
    # of those, the ones that the grid does not hold there: never ordered, elsewhere, or their end is recorded
    stray_runs: dict[str, dict[str, None]] = field(default_factory=dict)


class Grid:
    """One control plane over one journal."""

    def __init__(
        self, journal: Journal, clock: Clock, policy: Policy, *, secret: bytes = b"", decider: Decide = decide
    ) -> None:
        self.policy = policy
        self.live = Live()
        self.plan = Plan(at_s=0)
        self.lock = threading.RLock()
        self._journal, self._clock, self._secret, self._decide = journal, clock, secret, decider
        self._queue: queue.SimpleQueue[tuple[Command[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._listeners: list[Listener] = []
        self._news: list[tuple[int, Fact]] = []
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()  # the queue's None only wakes the loop, and may be lost in a failure
        self._planned_sequence = -1  # the state that the newest plan was made from, its own facts included
        self._tick_after = 0.0
        self.trouble = ""  # why the grid answers no more; "" while all is well
        self.complaint = ""  # why the newest plan was not carried out
        self.timed: Timed = lambda step, seconds: None  # who measures sets it; must not fail
        self.state = State()
        self._open()

    @property
    def leads(self) -> bool:
        """Whether this process decides; one of several planes may not."""
        return not self.trouble

    def now_s(self) -> int:
        """The grid's clock; never behind the last fact."""
        return max(self._clock.now_s(), self.state.at_s)

    # ------------------------------------------------------------ doors

    def do(self, command: Command[Result]) -> Result:
        """Carries out a command; durable when it returns.

        Raises: whatever the command refuses with; nothing is stored then.
        """
        if self._thread is None:
            return self._do_now(command)
        return self.begin(command).result()

    def begin(self, command: Command[Result]) -> Future[Result]:
        """What `do` returns or raises, in the future, for those who must not wait; without the loop's thread
        it is done, and raises, here. It cannot be cancelled: a command that has begun is carried out.
        """
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        if self._thread is None:
            future.set_result(self._do_now(command))
        else:
            self._queue.put((command, future))
        return future

    def read(self, view: Callable[[State], Result]) -> Result:
        """What `view` makes of the state, undisturbed."""
        with self.lock:
            return view(self.state)

    def reason(self, job: str) -> Reason | None:
        """Why a waiting job waits, by the newest plan."""
        with self.lock:
            return reason_for(self.plan, self.state, job)

    def report(self, seen: Observation) -> Orders:
        """A site's report; what it should be doing now. Renews its lease.

        Raises: Refused `unknown_site`.
        """
        self.do(self.heard(seen))
        return self.orders(seen.site, whole=seen.full)

    def heard(self, seen: Observation) -> Command[None]:
        """The command that makes facts of a report; the site counts as heard at once."""
        self.live.heard_at_s[seen.site] = self.now_s()
        for run in seen.runs:
            if run.progress:
                self.live.progress[run.run] = run.progress
        for transfer in seen.transfers:
            self.live.transfers[transfer.transfer] = transfer.arrived_bytes

        def command(state: State, now_s: int) -> tuple[Sequence[Fact], None]:
            if seen.site not in state.sites:
                raise Refused(
                    "unknown_site", f"no site is called {seen.site}", hint="join it: suan join", status=404
                )
            self._note_runs(seen)
            facts = observe(state, seen, now_s)
            pools = [pool for fact in facts if isinstance(fact, SiteDescribed) for pool in fact.pools]
            return (*facts, *of_new_pools(state, pools, now_s)), None

        return command

    def orders_at_once(self, site: str, *, whole: bool = False) -> Orders | None:
        """As `orders`; None when that would have to wait for the disk."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            return self.orders(site, whole=whole)
        finally:
            self.lock.release()

    def orders(self, site: str, *, whole: bool = False) -> Orders:
        """What the site should be doing now, all of it durable; the `whole` says also what it must keep.

        Raises: NotNow `grid_stopped` when the journal does not take what was decided.
        """
        with self.lock:
            if self.trouble:
                raise self._stopped()
            stray = self.live.stray_runs.get(site, ())
            secret, now_s = self._secret, self.now_s()
            orders = orders_for(self.state, site, self.policy, now_s, secret=secret, seen=stray)
            return replace(orders, keep=kept_at(self.state, site)) if whole else orders

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with new, durable facts from the writing thread; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # ------------------------------------------------------------ the loop

    def start(self) -> None:
        """Runs the loop in a thread until `stop`."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, name="suan-grid", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the loop after what waits is done, and closes the journal."""
        if self._thread is not None:
            self._ending.set()
            self._queue.put(None)
            self._thread.join()
            self._thread = None
            self._refuse_waiting()
        self._journal.close()

    def tick(self) -> Plan:
        """One cycle: silences, then plans until a plan asks for nothing more. Returns the last."""
        now_s = self.now_s()
        self._write_durably(silences(self.state, self.live.heard_at_s, self.policy, now_s))
        due = self.plan.wake_at_s is not None and self.plan.wake_at_s <= now_s
        while due or self.state.sequence != self._planned_sequence:  # an end of a job may end others
            due = False
            self._planned_sequence = self.state.sequence
            began_s = time.perf_counter()
            plan = self._decide(self.state, self.policy, now_s)
            self.timed("decide", time.perf_counter() - began_s)
            objections = audit(self.state, plan)
            assert not objections, f"the plan is wrong: {'; '.join(objections)}"
            self.plan = plan
            facts = facts_of(plan)
            self._write_durably(facts)
            if not any(isinstance(fact, JobEnded | MarketCleared) for fact in facts):
                self._planned_sequence = self.state.sequence
        self._tell()
        return self.plan

    def wake_at_s(self) -> int | None:
        """The next moment at which time alone can change anything: a plan's forecast, a lease, a fence."""
        moments = [self.plan.wake_at_s] if self.plan.wake_at_s is not None else []
        for site in self.state.sites.values():
            if site.phase != "fenced":
                since_s = max(
                    self.live.heard_at_s.get(site.name, 0), site.heard_at_s, self.state.started_at_s
                )
                limit_s = fence_s(self.policy) if site.phase == "silent" else self.policy.lease_s
                moments.append(since_s + limit_s + 1)
        return min(moments, default=None)

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
            log.critical("the grid stops deciding: %s", self.trouble, exc_info=True)
            while not self._ending.is_set():  # answers, so that nobody waits for ever
                self._refuse(self._queue.get())

    def _refuse_waiting(self) -> None:
        """Answers commands that came too late to be carried out."""
        while not self._queue.empty():
            self._refuse(self._queue.get())

    def _refuse(self, item: tuple[Command[Any], Future[Any]] | None) -> None:
        if item is not None:
            item[1].set_exception(self._stopped())

    def _stopped(self) -> NotNow:
        return NotNow("grid_stopped", self.trouble, hint="restart the grid: suan up")

    def _turn(self) -> bool:
        """One batch of commands, one sync, one plan. False when the grid is to stop."""
        idle_s = max(0.0, self._tick_after - time.monotonic()) if self._undecided() else MAX_TICK_S
        batch = self._next_batch(idle_s)
        try:
            with self._durably():
                answers = [self._try(*item) for item in batch if item is not None]
        except Exception:
            for _, future in filter(None, batch):
                future.set_exception(self._stopped())
            raise
        for future, result, error in answers:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
        self._tell()
        if time.monotonic() >= self._tick_after or not batch:
            started = time.monotonic()
            self._tick_or_hold()
            # While commands stream in, planning takes at most half of the time.
            self._tick_after = 2 * time.monotonic() - started
        return None not in batch

    def _tick_or_hold(self) -> None:
        """A plan that is wrong, or none, is a bug: nothing of it is done, sites keep their orders and leases,
        and the next fact is the next chance. A journal that fails is another matter.
        """
        try:
            self.tick()
            self.complaint = ""
        except Exception as error:
            if self.trouble:
                raise
            self.complaint = f"{type(error).__name__}: {error}"
            log.critical("no plan was carried out: %s", self.complaint, exc_info=error)

    def _undecided(self) -> bool:
        return self.state.sequence != self._planned_sequence

    def _next_batch(self, wait_s: float) -> list[tuple[Command[Any], Future[Any]] | None]:
        batch = []
        try:
            batch.append(self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait())
            while len(batch) < MAX_BATCH:
                batch.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _try(
        self, command: Command[Any], future: Future[Any]
    ) -> tuple[Future[Any], Any, BaseException | None]:
        try:
            facts, result = command(self.state, self.now_s())
            self._write(facts)
        except Exception as error:
            if not isinstance(error, SuanError):
                log.exception("a command failed")
            return future, None, error
        return future, result, None

    def _do_now(self, command: Command[Result]) -> Result:
        with self._durably():
            facts, result = command(self.state, self.now_s())
            self._write(facts)
        self._tell()
        return result

    # ------------------------------------------------------------ the journal

    @contextlib.contextmanager
    def _durably(self) -> Iterator[None]:
        """Nobody sees what is written in it before it is on stable storage: an order that is out must not be
        forgotten by a kill.
        """
        with self.lock:
            yield
            began_s = time.perf_counter()
            try:
                self._journal.sync()
            except Exception as error:
                self.trouble = f"{type(error).__name__}: {error}"
                raise
            self.timed("journal_sync", time.perf_counter() - began_s)

    def _open(self) -> None:
        fold(self.state, (fact for _, fact in self._journal.read()))
        self._write([GridStarted(at_s=self.now_s(), version=__version__)])
        self._journal.sync()

    def _write(self, facts: Sequence[Fact]) -> None:
        if not facts:
            return
        with self.lock:
            self._journal.append(facts, self.state.sequence)
            for fact in facts:
                try:
                    evolve(self.state, fact)
                except Exception as error:  # the journal is ahead of the state: only a restart mends that
                    self.trouble = f"{type(error).__name__}: {error}"
                    raise
                if isinstance(fact, RunEnded):
                    self._note_end(fact.run)
                if self._listeners:
                    self._news.append((self.state.sequence, fact))

    def _write_durably(self, facts: Sequence[Fact]) -> None:
        if facts:
            with self._durably():
                self._write(facts)

    def _tell(self) -> None:
        news, self._news = self._news, []
        if news:
            for listener in list(self._listeners):
                listener(news)

    def _note_runs(self, seen: Observation) -> None:
        """Which runs the site says it has; those whose end is recorded stay until a report no longer names
        them.
        """
        held = self.state.open_runs.get(seen.site, {})
        there = self.live.seen_runs.setdefault(seen.site, {})
        stray = self.live.stray_runs.setdefault(seen.site, {})
        for run in (*there,) if seen.full else (*stray,):
            if seen.full or run not in held:
                del there[run]
        stray.clear()
        for run in seen.runs:
            there[run.run] = None
            if run.run not in held:
                stray[run.run] = None

    def _note_end(self, run: str) -> None:
        """The end of a run is recorded: its site may forget it."""
        site = self.state.runs[run].site
        if run in self.live.seen_runs.get(site, ()):
            self.live.stray_runs[site][run] = None
