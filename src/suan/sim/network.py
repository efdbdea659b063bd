"""Messages between simulated sites and the grid, and what can happen to them on the way.

A site without trouble is heard at every moment at which anything happens, like one that waits in a long
poll. One in
trouble reports by itself every few seconds and when it has news; its reports or their answers may be lost,
doubled or
late, and its lease lasts only as long as answers come.
"""

import heapq
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from suan.control.loop import Grid
from suan.grid.action import Observation, Orders
from suan.sim.site import SimulatedSite

HEARTBEAT_S = 10  # of a site in trouble
LONGEST_DELAY_S = 45  # longer than a lease
_LOST_RATIO, _LATE_RATIO, _DOUBLE_RATIO = 0.6, 0.4, 0.5  # of the messages, while the fault lasts

_MOST_ANSWERS = 10  # to one site within one instant

MESSAGE_FAULTS = ("lost_reports", "lost_answers", "late_answers", "delayed_reports", "duplicated_reports")
OUTAGE = "grid_outage"
CUTS = ("partition", "agent_restart", OUTAGE)


@dataclass(slots=True)
class Connection:
    """How one site is connected: until when each trouble lasts."""

    site: SimulatedSite
    until_s: dict[str, int] = field(default_factory=dict)  # kind of trouble -> its end
    beat_at_s: int = 0
    tried_s: int = -1  # when a report was last sent in trouble
    newest_s: int = -1  # when the newest report that arrived was made

    def has(self, *kinds: str) -> bool:
        return any(kind in self.until_s for kind in kinds)


class Network:
    """Every site's connection to one grid, which may be replaced by its successor."""

    def __init__(self, grid: Grid, sites: Iterable[SimulatedSite], seed: int) -> None:
        self.grid = grid
        self.fired: Counter[str] = Counter()
        self._connections = {site.name: Connection(site) for site in sites}
        self._chance = random.Random(f"{seed}/network")
        # arrival, serial, site, when it was sent, message
        self._late: list[tuple[int, int, str, int, Observation | Orders]] = []
        self._serial = 0

    @property
    def is_troubled(self) -> bool:
        """Whether any site is in trouble."""
        return any(connection.until_s for connection in self._connections.values())

    def next_s(self) -> int | None:
        """When a trouble ends, a late message arrives or a site in trouble reports."""
        moments = [self._late[0][0]] if self._late else []
        for connection in self._connections.values():
            if connection.until_s:
                moments.append(min(connection.until_s.values()))
                if not connection.has(*CUTS):
                    moments.append(connection.beat_at_s)
        return min(moments, default=None)

    def trouble(self, site: str, kind: str, until_s: int, now_s: int) -> None:
        """From now on the site's messages suffer from this."""
        connection = self._connections[site]
        if not connection.until_s:  # the last heartbeat got through just now
            self.grid.live.heard_at_s[site] = now_s
            connection.site.connect(False, self.grid.policy.lease_s)
        connection.until_s[kind] = max(until_s, connection.until_s.get(kind, 0))
        connection.beat_at_s = now_s + HEARTBEAT_S
        if kind in CUTS and kind != OUTAGE:
            self.fired[kind] += 1

    def calm(self) -> None:
        """Ends all trouble at once; what was late is lost."""
        self._late.clear()
        for connection in self._connections.values():
            for kind in connection.until_s:
                connection.until_s[kind] = 0

    def pass_time(self, now_s: int) -> None:
        """What time does: troubles end, quiet sites are heard, late messages arrive, troubled sites
        report."""
        for name, connection in self._connections.items():
            if connection.until_s:
                self._end_troubles(connection, now_s)
            if not connection.until_s:
                self.grid.live.heard_at_s[name] = now_s
        while self._late and self._late[0][0] <= now_s:
            _, _, name, sent_s, message = heapq.heappop(self._late)
            if not self._connections[name].has(*CUTS):
                self._arrive(self._connections[name], message, sent_s, now_s)
        for connection in self._connections.values():
            if connection.until_s and connection.beat_at_s <= now_s:
                self._report(connection, now_s)

    def exchange(self, touched: Iterable[str], now_s: int) -> None:
        """Sites for which there are new orders get them, and those with news tell it."""
        for name in touched:
            connection = self._connections[name]
            if connection.until_s:
                self._report(connection, now_s)
            else:
                connection.site.obey(self.grid.orders(name))
        for connection in self._connections.values():
            for _ in range(1 if connection.until_s else _MOST_ANSWERS):
                if not (connection.site.may_have_news(now_s) and connection.site.has_news()):
                    break
                self._report(connection, now_s)  # the answer may make news at once: a start, a new epoch

    # ---------------------------------------------------------------- one message

    def _report(self, connection: Connection, now_s: int) -> None:
        site = connection.site
        if not connection.until_s:
            self._answer(connection, site.observe(), now_s)
            return
        if connection.tried_s == now_s or connection.has(*CUTS):
            return
        connection.tried_s, connection.beat_at_s = now_s, now_s + HEARTBEAT_S
        seen = site.observe()
        if connection.has("lost_reports") and self._chance.random() < _LOST_RATIO:
            self.fired["lost_reports"] += 1
            return
        if connection.has("delayed_reports") and self._chance.random() < _LATE_RATIO:
            self.fired["delayed_reports"] += 1
            self._delay(site.name, seen, now_s)
            return
        if connection.has("duplicated_reports") and self._chance.random() < _DOUBLE_RATIO:
            self.fired["duplicated_reports"] += 1
            self._delay(site.name, seen, now_s)
        if connection.has("lost_answers") and self._chance.random() < _LOST_RATIO:
            self.fired["lost_answers"] += 1
            self.grid.report(seen)
            return
        if connection.has("late_answers") and self._chance.random() < _LATE_RATIO:
            self.fired["late_answers"] += 1
            self._delay(site.name, self.grid.report(seen), now_s)
            return
        self._answer(connection, seen, now_s)

    def _answer(self, connection: Connection, seen: Observation, sent_s: int) -> None:
        connection.newest_s = max(connection.newest_s, sent_s)
        orders = self.grid.report(seen)
        connection.site.answered(seen)
        connection.site.obey(orders)

    def _arrive(self, connection: Connection, message: Observation | Orders, sent_s: int, now_s: int) -> None:
        """A late message: a report is answered, orders are obeyed as far as their lease, which counts from
        when they were asked for, lets them be."""
        if isinstance(message, Observation):
            if sent_s < connection.newest_s:
                self.fired["reordered_reports"] += 1
            self._answer(connection, message, sent_s)
        elif (left_s := message.lease_s - (now_s - sent_s)) > 0:
            connection.site.obey(replace(message, lease_s=left_s))

    def _delay(self, site: str, message: Observation | Orders, now_s: int) -> None:
        self._serial += 1
        arrives_s = now_s + self._chance.randint(1, LONGEST_DELAY_S)
        heapq.heappush(self._late, (arrives_s, self._serial, site, now_s, message))

    def _end_troubles(self, connection: Connection, now_s: int) -> None:
        over = [kind for kind, until_s in connection.until_s.items() if until_s <= now_s]
        for kind in over:
            del connection.until_s[kind]
        if "agent_restart" in over:
            connection.site.restart()
        if not connection.until_s:
            connection.site.connect(True, self.grid.policy.lease_s)
            connection.site.want_full()
