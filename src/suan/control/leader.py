"""Several control planes over one journal: one leads, the others follow, serve reads, and take over.

Knows when this plane may decide. Does not know where the journal lies (`journals/postgres.py` does) nor HTTP:
a follower refuses commands with the leader's address, and `doors/rest/forward.py` carries them there.

A plane is the grid's loop with something before and after it: it folds what the leader writes until it has
the lead itself, writes as `Grid` does while the journal takes it, and on any failure folds again what is
there. Orders leave a plane only while nobody else can lead, for an order renews a lease that another leader
would not know of.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol, TypeVar

from suan import __version__
from suan.control.loop import Command, Decide, Grid, Live
from suan.grid.action import Observation, Orders
from suan.grid.error import NotNow, SuanError
from suan.grid.fact import Fact, GridStarted
from suan.grid.state import State
from suan.ports import Clock, Journal
from suan.rules.decide import decide
from suan.rules.evolve import evolve
from suan.rules.policy import Policy

log = logging.getLogger("suan.control")
Result = TypeVar("Result")

TRY_S = 0.25  # between two tries to take it, and to reach a journal that is away
FORESIGHT_S = 1.0  # between two plans of a follower, which only tell why a job waits


class SharedJournal(Journal, Protocol):
    """A journal that several processes have open. It proves its lead by itself, however long a plan takes,
    and is of no use after a failure until `reopen`.
    """

    def try_lead(self, name: str) -> bool:
        """True when this process alone may append from here on, known as `name`; False while another may."""
        ...

    def leads_for_s(self) -> float:
        """Seconds for which nobody else can lead; not above zero without the lead."""
        ...

    def leader(self) -> str:
        """Who leads, or led last; "" for nobody yet."""
        ...

    def catch_up(self) -> int:
        """The head now; `read` goes so far. Raises: SiteTrouble."""
        ...

    def wait(self, longest_s: float) -> None:
        """Returns when facts were added, or after `longest_s`. Raises: SiteTrouble."""
        ...

    def reopen(self) -> None:
        """Opens it again, without the lead. Raises: SuanError while that cannot be."""
        ...


class Plane(Grid):
    """One of several control planes. `url` is set before `start`: how the others and callers reach this one.

    `first` is what every new leader does before anything else.
    """

    def __init__(
        self,
        journal: SharedJournal,
        clock: Clock,
        policy: Policy,
        *,
        first: Callable[[State], Command[None]],
        url: str = "",
        secret: bytes = b"",
        decider: Decide = decide,
    ) -> None:
        self.url = url
        self._shared, self._first = journal, first
        self._leading = False
        self._torn = False  # the state has what the journal may not have
        self._durable = 0  # the last sequence that the journal surely has
        self._settled = threading.Event()
        super().__init__(journal, clock, policy, secret=secret, decider=decider)

    # ------------------------------------------------------------ doors

    @property
    def leads(self) -> bool:
        """Whether this plane decides, and nobody else can at this moment."""
        return self._leading and self._shared.leads_for_s() > 0

    @property
    def leader(self) -> str:
        """The address of the plane that leads, as far as this one knows; "" while nobody does."""
        if self.leads:
            return self.url
        known = self._shared.leader()
        return "" if known == self.url else known

    def settled(self, timeout_s: float) -> bool:
        """Waits until this plane leads or has seen another lead; whether it came to that."""
        return self._settled.wait(timeout_s)

    def do(self, command: Command[Result]) -> Result:
        """As a grid does. Raises: NotNow `not_leader` besides."""
        if not self.leads:
            raise self.not_leader()
        return super().do(command)

    def begin(self, command: Command[Result]) -> Future[Result]:
        """As a grid does. Raises: NotNow `not_leader` besides."""
        if not self.leads:
            raise self.not_leader()
        return super().begin(command)

    def read(self, view: Callable[[State], Result]) -> Result:
        """What `view` makes of the state: a follower's is a moment old.

        Raises: NotNow `catching_up` after a failure, until what the journal took of the last facts is known.
        """
        with self.lock:
            if self._torn:
                raise NotNow(
                    "catching_up", "the journal is being read again", hint="try again", retry_after_s=1
                )
            return view(self.state)

    def heard(self, seen: Observation) -> Command[None]:
        """As a grid does. Raises: NotNow `not_leader` besides."""
        if not self.leads:
            raise self.not_leader()
        return super().heard(seen)

    def orders(self, site: str, *, whole: bool = False) -> Orders:
        """As a grid does. Raises: NotNow `not_leader` besides."""
        orders = super().orders(site, whole=whole)
        if not self.leads:  # asked last: what was true when the lead was proved is what is told
            raise self.not_leader()
        return orders

    def not_leader(self) -> NotNow:
        """The refusal that names the leader."""
        leader = self.leader
        return NotNow(
            "not_leader",
            f"this control plane follows; {leader or 'nobody'} leads",
            hint=f"ask {leader}" if leader else "wait for the next leader, a few seconds",
            retry_after_s=1,
            leader=leader,
        )

    # ------------------------------------------------------------ the loop

    def _open(self) -> None:
        self._fold_news()

    def _run(self) -> None:
        while True:
            try:
                if self._follow():
                    self._lead()
                break
            except Exception as error:
                self._step_down(error)
            if not self._recover():
                break
        self._leading = False
        self._refuse_waiting()

    def _follow(self) -> bool:
        """True when this plane has got the lead, False when it is to end."""
        try_after_s = 0.0
        while self._goes_on():
            self._fold_news()
            if time.monotonic() >= try_after_s:
                if self._shared.try_lead(self.url):
                    return True
                try_after_s = time.monotonic() + TRY_S
                self._settled.set()
            self._foresee()
            self._shared.wait(TRY_S)
        return False

    def _lead(self) -> None:
        """Leads until the end. Raises: what ended the lead before that."""
        self._fold_news()  # of the leader before
        self.live = Live()  # of an earlier lead of ours: sites will say it again
        self._write_durably([GridStarted(at_s=self.now_s(), version=__version__)])
        self._do_now(self._first(self.state))
        log.warning("%s leads from fact %d on", self.url or "this plane", self.state.sequence)
        self._tick_after = 0.0
        self._leading = True
        self._settled.set()
        while self._turn():
            if self.trouble:  # state and journal are apart
                raise RuntimeError(self.trouble)

    def _step_down(self, error: Exception) -> None:
        self._leading = False
        self._torn |= self._durable != self.state.sequence  # facts read half tear nothing: they come again
        self.trouble = f"{type(error).__name__}: {error}"
        log.error(
            "this control plane steps back: %s", self.trouble, exc_info=not isinstance(error, SuanError)
        )
        self._news = [item for item in self._news if item[0] <= self._durable]
        self._tell()

    def _recover(self) -> bool:
        """Until the state is the journal's again: True. False when this plane is to end."""
        while self._goes_on():
            try:
                self._shared.reopen()
                if self._torn or self._shared.catch_up() < self._durable:
                    self._fold_again()
                self._fold_news()
                self.trouble = ""
                return True
            except Exception as error:
                self.trouble = f"{type(error).__name__}: {error}"
                time.sleep(TRY_S)
        return False

    def _goes_on(self) -> bool:
        """Answers commands that came too late to be led. False when the loop is to end."""
        self._refuse_waiting()
        return not self._ending.is_set()

    def _stopped(self) -> NotNow:
        return self.not_leader()

    # ------------------------------------------------------------ the state

    def _fold_news(self) -> None:
        """Folds what others have written, and tells it."""
        self._shared.catch_up()
        for sequence, fact in self._shared.read(self.state.sequence):
            with self.lock:
                evolve(self.state, fact)
                self._durable = sequence
                if self._listeners:
                    self._news.append((sequence, fact))
        self._tell()

    def _fold_again(self) -> None:
        """The state from the first fact on, beside the old one, which readers have meanwhile."""
        state, told = State(), self._durable
        news: list[tuple[int, Fact]] = []
        self._shared.catch_up()
        for sequence, fact in self._shared.read():
            evolve(state, fact)
            if sequence > told:
                news.append((sequence, fact))
        if state.sequence < told:
            log.critical("the journal ends at %d and had %d facts: it lost some", state.sequence, told)
        with self.lock:
            self.state, self._durable, self._torn = state, state.sequence, False
            self._planned_sequence = -1
            if self._listeners:
                self._news += news
        self._tell()

    def _foresee(self) -> None:
        """A follower's plan is never carried out; it tells why jobs wait, and makes a new leader's first one
        fast.
        """
        if not self._undecided() or time.monotonic() < self._tick_after:
            return
        began_s = time.monotonic()
        self._planned_sequence = self.state.sequence
        try:
            self.plan = self._decide(self.state, self.policy, self.now_s())
        except Exception:
            log.exception("a follower could not plan")
        self._tick_after = time.monotonic() + max(FORESIGHT_S, 3 * (time.monotonic() - began_s))

    @contextlib.contextmanager
    def _durably(self) -> Iterator[None]:
        with self.lock:
            try:
                with super()._durably():
                    yield
            except BaseException:
                self._torn = self.state.sequence != self._durable
                raise
            self._durable = self.state.sequence
