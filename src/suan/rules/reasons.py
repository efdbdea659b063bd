"""Why a job waits: one dominant reason, two numbers in one unit, and what would help."""

from suan.grid.artifact import Transfer
from suan.grid.job import Bid, EndCause, Reason, Run
from suan.grid.state import State
from suan.grid.units import duration_text, yuan_text
from suan.rules.bids import Candidate
from suan.rules.move import Move, again_at_s, transfer_id
from suan.rules.supply import Supply

DEVICES = "devices"
QUOTA = "quota"


def nowhere(unfit: dict[str, Reason]) -> Reason:
    if not unfit:
        return Reason(
            code="no_site", text="no site is ready", need=1, have=0, unit="sites", help="add one: suan join"
        )
    order = ("quota", "data", "rights", "memory", "cpus", "nodes", "devices_per_node", "place", "accelerator")
    rank = {code: place for place, code in enumerate(order)}
    name, reason = min(unfit.items(), key=lambda item: (rank.get(item[1].code, len(order)), item[0]))
    counted = reason.need is not None  # a site's name or a kind cannot be compared: pools are counted then
    return Reason(
        code=reason.code,
        text=f"no pool can run it; {name}: {reason.text}",
        need=reason.need if counted else 1,
        have=reason.have if counted else 0,
        unit=reason.unit if counted else "pools",
        help=reason.help or "see what there is: suan sites",
    )


def moving(state: State, moves: tuple[Move, ...], bid: Bid, now_s: int) -> Reason:
    failed = [(move, before) for move in moves if (before := _paused(state, move, now_s)) is not None]
    if failed:
        move, before = failed[0]
        text = (
            f"{move.artifact} could not be brought from {before.source} to {bid.site} ({before.why});"
            f" try {before.attempts + 1} in {again_at_s(before) - now_s} s"
        )
    else:
        names = ", ".join(move.artifact for move in moves)
        text = f"{names} is on its way from {moves[0].source} to {bid.site}, where it runs cheapest"
    return Reason(
        code="moving",
        text=text,
        need=sum(move.bytes for move in moves),
        have=0,
        unit="bytes",
        help="look at both ends: suan sites" if failed else "nothing to do",
        expected_start_s=bid.start_s,
    )


def _paused(state: State, move: Move, now_s: int) -> Transfer | None:
    """The move's transfer when it has failed and is not to be tried again yet."""
    before = state.transfers.get(transfer_id(state.artifacts[move.artifact], move.destination))
    return before if before is not None and again_at_s(before) > now_s else None


def paused(last: Run, until_s: int, now_s: int) -> Reason:
    lost = last.cause == EndCause.LOST
    what = f"{last.site} has lost it several times" if lost else "the engine could not start it"
    return Reason(
        code="refused",
        text=f"{what} ({last.stop_reason}); next try in {until_s - now_s} s",
        need=until_s,
        have=now_s,
        unit="s",
        help=f"see what it said: suan logs {last.job}" if lost else "look at its site: suan sites",
    )


def devices_reason(need: int, supply: Supply, start_s: int, now_s: int) -> Reason:
    reserved = supply.free >= need
    held = f"; {supply.free} are free but held for a job whose turn comes first" if reserved else ""
    return Reason(
        code=DEVICES,
        text=f"needs {need} devices, {supply.name} has {supply.free} of {supply.pool.devices} free{held};"
        f" expected in {duration_text(start_s - now_s)}",
        need=need,
        have=supply.free,
        unit="devices",
        help="fewer devices, or another accelerator in resources.any_of",
        expected_start_s=start_s,
    )


def cheaper_hour(best: Candidate, now: Candidate | None, now_s: int) -> Reason:
    """It would cost less later: the two prices as they are weighed, pauses and scarcity counted in."""
    price_now = now.price_microyuan if now else None
    site, task, policy = best.offer.supply.site.name, best.job.task, best.cycle.policy
    text = (
        f"starts in {duration_text(best.start_s - now_s)} at {site}, when it costs"
        f" {yuan_text(best.price_microyuan)}"
    )
    if price_now is not None:
        text += f" instead of {yuan_text(price_now)}"
    if policy.carbon_weight_microyuan_per_kg:
        text += f", a kilogram of CO2 counted as {yuan_text(policy.weighed_microyuan_per_kg)}"
    free = policy.waits_free(task)
    if free:
        text += "; until its deadline its waiting counts as free"
    return Reason(
        code="cheaper_hour",
        text=text,
        need=best.price_microyuan,
        have=price_now,
        unit="micro-yuan",
        help=f"{'no deadline, or priority: online,' if free else 'priority: standard'} starts it at once",
        expected_start_s=best.start_s,
    )
