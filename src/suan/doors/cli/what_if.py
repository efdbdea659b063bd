"""The verb what-if: the live grid, simulated from its journal as it is and with a change.

Knows what the options mean. Reads the journal beside a grid that goes on writing it, and touches nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suan.doors.cli.session import print_json
from suan.grid.error import Refused

if TYPE_CHECKING:
    from suan.grid.site import Tariff
    from suan.sim.live import Change, Past

Json = dict[str, Any]


@click.command()
@click.option(
    "--state",
    "folder",
    default="./state/grid",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The grid's folder.",
)
@click.option("--config", type=click.Path(path_type=Path), help="The grid's settings, for its policy.")
@click.option("--tariff", "tariffs", multiple=True, metavar="SITE=FILE|±N%", help="Another tariff; repeat.")
@click.option("--site", "sites", multiple=True, metavar="WORLD.toml#NAME", help="A site that joins; repeat.")
@click.option("--drop", multiple=True, metavar="SITE", help="A site that is gone; repeat.")
@click.option("--policy", metavar="NAME", help="Another policy, as `suan simulate` names them.")
@click.option("--hours", default=168, show_default=True, type=click.IntRange(1, 8784), help="At most so far.")
@click.option(
    "--repeat-hours", default=0, type=click.IntRange(0, 8784), help="What came in these last hours, again."
)
@click.option("--seed", default=0, show_default=True, help="Draws the lengths that nobody knows.")
@click.option("--json", "as_json", is_flag=True, help="Exact JSON on standard output, nothing else.")
def what_if(*, folder: Path, config: Path | None, as_json: bool, **wanted: Any) -> None:
    """What would come of the jobs that wait and run now: as things are, and with a change.

    The grid may go on running; nothing of it is touched. Lengths that nobody knows are drawn from what has
    been learnt, the same on both sides.
    """
    from suan.control.config import policy_of, read_config
    from suan.journals.reader import read_only
    from suan.sim.live import past_of
    from suan.sim.policies import named_policy
    from suan.sim.what_if import what_if as compared

    policy = policy_of(read_config(config, folder=folder))
    facts = list(read_only(folder / "grid.sqlite"))
    past = past_of(facts, policy, repeat_s=wanted["repeat_hours"] * 3600, seed=wanted["seed"])
    change = _change(past, wanted)
    other = named_policy(wanted["policy"], {}) if wanted["policy"] else None
    found = compared(past, policy, change, other, hours=wanted["hours"], seed=wanted["seed"])
    if as_json:
        print_json(found)
    else:
        _print(found)


def _change(past: "Past", wanted: Json) -> "Change":
    """Raises: Refused `unknown_site`, `bad_tariff`, `bad_value` and what a world's file can have wrong."""
    from suan.sim.live import Change
    from suan.sim.what_if import joining

    for name in wanted["drop"]:
        _known(past, name)
    joined = []
    for text in wanted["sites"]:
        path, hash_sign, name = text.rpartition("#")
        if not hash_sign:
            raise Refused("bad_value", f"--site {text!r} names no site", hint="write WORLD.toml#NAME")
        joined.append(joining(past, Path(path), name))
    return Change(
        tariffs=tuple(_tariff(past, text) for text in wanted["tariffs"]),
        sites=tuple(site for change in joined for site in change.sites),
        links=tuple(link for change in joined for link in change.links),
        drop=tuple(wanted["drop"]),
    )


def _tariff(past: "Past", text: str) -> "Tariff":
    """The tariff that `SITE=FILE` or `SITE=+20%` means."""
    import msgspec

    from suan.grid.site import Tariff
    from suan.sim.what_if import scaled

    site, equals, value = text.partition("=")
    if not equals or not value:
        raise Refused("bad_tariff", f"--tariff {text!r} says no price", hint="write SITE=FILE or SITE=+20%")
    _known(past, site)
    if value.endswith("%"):
        before = past.state.tariff(site, past.at_s)
        if before is None:
            raise Refused("bad_tariff", f"{site} has no tariff to change", hint=f"suan tariff {site}")
        try:
            ratio = 1 + float(value[:-1]) / 100
        except ValueError as error:
            raise Refused("bad_tariff", f"{value!r} is no percentage", hint="write +20% or -20%") from error
        return scaled(before, ratio, value)
    try:
        read = msgspec.json.decode(Path(value).read_bytes(), type=Tariff)
    except (OSError, msgspec.MsgspecError) as error:
        raise Refused("bad_tariff", f"{value}: {error}", hint="see docs/reference/rest.md") from error
    return msgspec.structs.replace(read, site=site, valid_from_s=past.at_s)


def _known(past: "Past", site: str) -> None:
    if site not in past.state.sites:
        known = ", ".join(name for name, there in past.state.sites.items() if there.pools)
        raise Refused("unknown_site", f"the grid has no site {site!r}", hint=f"it has {known}")


# ---------------------------------------------------------------- as text


def _print(found: Json) -> None:
    from suan.doors.cli import render
    from suan.grid.units import duration_text, yuan_text

    def count(value: float) -> str:
        return f"{value:,.0f}"

    def fine(value: float) -> str:
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"

    shown = {
        "jobs": count, "done": count, "failed": count, "unfinished": count, "missed_deadlines": count,
        "wait_s_mean": duration_text, "wait_s_p99": duration_text, "jct_s_mean": duration_text,
        "device_h": fine, "energy_kwh": fine, "carbon_kg": fine, "cost_microyuan": yuan_text,
        "preemptions": count, "moved_gb": fine, "simulated_h": fine,
    }  # fmt: skip
    sides = (found["as_it_is"], found["changed"])
    rows = [("policy", *(side["policy"] for side in sides), "")]
    for name, say in shown.items():
        difference = found["difference"].get(name)
        sign = "" if not difference else "-" if difference < 0 else "+"
        rows.append(
            (
                name.removesuffix("_microyuan").replace("_s_", " "),
                *("–" if side[name] is None else say(side[name]) for side in sides),
                f"{sign}{say(abs(difference))}" if difference else "",
            )
        )
    for site in sorted({*sides[0]["device_h_by_site"], *sides[1]["device_h_by_site"]}):
        before, after = (side["device_h_by_site"].get(site, 0.0) for side in sides)
        rows.append((f"device_h {site}", fine(before), fine(after), f"{after - before:+,.1f}"))
    print(render.table(("", "as it is", "changed", "difference"), rows, right="as it is changed difference"))
    print(f"from {render.moment(found['at_s'])} on, {found['hours']} h at most; nothing real was touched")
