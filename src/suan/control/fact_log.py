"""What happens to jobs and sites as lines of the log: the journal's news for those who watch logs.

Knows which facts are worth a line and how each is told. How lines look is `logs.py`.
"""

import logging
from collections.abc import Callable

from suan.control.logs import NAMED
from suan.control.loop import Grid
from suan.grid import fact as f
from suan.grid.fact import Fact
from suan.grid.state import State

log = logging.getLogger("suan.facts")
# What happens to jobs and sites; the rest of the journal is about money, keys and prices.
_NOTABLE = (
    f.JobSubmitted, f.JobStopRequested, f.JobEnded, f.RunPlaced, f.RunStarted, f.RunEndpoint,
    f.RunStopOrdered, f.RunEnded, f.SiteJoined, f.SiteDescribed, f.SiteSilent, f.SiteHeard, f.SiteFenced,
    f.SiteReturned, f.SiteDraining, f.TransferOrdered, f.TransferEnded, f.ArtifactCommitted, f.GridStarted,
)  # fmt: skip


def tell_facts(grid: Grid) -> Callable[[list[tuple[int, Fact]]], None]:
    """What logs what happens to jobs and sites while this process leads; `event` is the fact's name."""

    def told(news: list[tuple[int, Fact]]) -> None:
        for _, fact in news:
            if isinstance(fact, _NOTABLE) and grid.leads:
                event = type(fact).__name__
                log.info("%s", _sentence(fact), extra={"event": event, **_named(grid.state, fact)})

    return told


def _named(state: State, fact: Fact) -> dict[str, str]:
    """Site, job and run that the fact is about, as far as it or the state says."""
    named = {name: str(getattr(fact, name)) for name in NAMED if getattr(fact, name, "")}
    if run := state.runs.get(named.get("run", "")):
        named = {"job": run.job, "site": run.site, **named}
    return named


def _sentence(fact: Fact) -> str:
    match fact:
        case f.JobEnded():
            return f"{fact.phase.value}: {fact.outcome}"
        case f.RunPlaced():
            return f"placed on {fact.bid.devices} devices of {fact.bid.site}/{fact.bid.pool}"
        case f.RunEnded():
            code = "" if fact.exit_code is None else f" with {fact.exit_code}"
            return f"{fact.cause.value}{code}{': ' if fact.detail else ''}{fact.detail}"
        case f.RunStopOrdered():
            return f"to be stopped: {fact.why}"
        case f.TransferOrdered():
            return f"{fact.artifact} from {fact.source} to {fact.destination}"
        case f.TransferEnded():
            return f"{fact.transfer}: {fact.failed or f'{fact.moved_bytes} bytes moved'}"
        case f.JobSubmitted():
            return f"{fact.task.name} of {fact.tenant}"
        case _:
            return type(fact).__name__
