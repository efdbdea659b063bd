"""Verbs on sites: sites, link, tariff.

Knows how sites, pools, accelerator kinds and links are shown, and how a tariff is read from options or
tables.
"""

from pathlib import Path
from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb
from suan.grid.error import Refused
from suan.grid.units import microyuan

Json = dict[str, Any]


@click.group(invoke_without_command=True)
@click.option("--accelerators", is_flag=True, help="Every accelerator kind the grid knows; needs no grid.")
@click.pass_context
@grid_verb
def sites(session: Session, context: click.Context, accelerators: bool) -> None:
    """Sites and their pools. `suan sites drain SITE` takes one out of service."""
    if context.invoked_subcommand is not None:
        return
    if accelerators:
        _list_accelerators(session)
        return
    found = session.client.sites()
    session.answer({"items": found}, lambda: _print_sites(found))


def _print_sites(found: list[Json]) -> None:
    rows = [
        (site["name"], site["phase"], site["region"], site["engine"], pool["name"], pool["accelerator"],
         f"{pool['nodes']}×{pool['devices_per_node']}", pool["devices"] - pool["used_devices"],
         render.cny(pool["machine_microyuan_per_device_h"]))
        for site in found
        for pool in site["pools"]
    ]  # fmt: skip
    rows += [
        (site["name"], site["phase"], site.get("region"), site.get("engine"), *[""] * 5)
        for site in found
        if not site["pools"]
    ]
    headings = ("site", "phase", "region", "engine", "pool", "accelerator", "nodes", "free", "CNY/device-h")
    print(render.table(headings, rows, right="nodes free CNY/device-h"))
    if not any(site["pools"] for site in found):
        print("no site has pools yet: suan join-token NAME, then there: suan join URL --token … --site NAME")


def _list_accelerators(session: Session) -> None:
    import msgspec

    from suan.grid.hardware import accelerators as kinds

    found = [msgspec.to_builtins(kind) for kind in kinds().values()]

    def say() -> None:
        rows = [
            (k["name"], k["vendor"], k["device_class"], k["peak_tflops"].get("bf16"), k["memory_gib"],
             k["tdp_w"],
             k["visible_env"], ", ".join(k["aliases"][:3]))
            for k in found
        ]  # fmt: skip
        headings = ("accelerator", "vendor", "class", "bf16 TFLOP/s", "GiB", "W", "pinned by", "also called")
        print(render.table(headings, rows, right="bf16 TFLOP/s GiB W"))

    session.answer({"items": found}, say)


@sites.command("drain")
@click.argument("site")
@click.option("--undo", is_flag=True, help="Take it back into service.")
@grid_verb
def drain(session: Session, site: str, undo: bool) -> None:
    """Give a site no new runs; those it has go on."""
    answer = session.client.drain(site, not undo)
    session.answer(answer, lambda: print(f"{site} takes {'runs again' if undo else 'no new runs'}"))


@click.group(invoke_without_command=True)
@click.pass_context
@grid_verb
def link(session: Session, context: click.Context) -> None:
    """Links between sites."""
    if context.invoked_subcommand is not None:
        return
    found = session.client.links()

    def say() -> None:
        rows = [
            (
                k["source"],
                k["destination"],
                f"{k['mbit_per_s']:g}",
                f"{k['rtt_ms']:g}",
                render.cny(k["microyuan_per_gb"]),
                k["origin"],
            )
            for k in found
        ]
        print(
            render.table(("from", "to", "Mbit/s", "ms", "CNY/GB", "origin"), rows, right="Mbit/s ms CNY/GB")
        )

    session.answer({"items": found}, say)


@link.command("set")
@click.argument("source")
@click.argument("destination")
@click.option("--mbit-per-s", required=True, type=click.FloatRange(min=0, min_open=True), help="Bandwidth.")
@click.option("--rtt-ms", default=0.0, type=click.FloatRange(min=0), help="Round trip.")
@click.option("--yuan-per-gb", default=0.0, type=click.FloatRange(min=0), help="Price of moving a GB.")
@click.option("--one-way", is_flag=True, help="Only from SOURCE to DESTINATION.")
@grid_verb
def set_link(session: Session, *, source: str, destination: str, one_way: bool, **terms: float) -> None:
    """Declare a link, both ways."""
    ends = [(source, destination)] if one_way else [(source, destination), (destination, source)]
    answers = [
        session.client.set_link(
            *pair,
            mbit_per_s=terms["mbit_per_s"],
            rtt_ms=terms["rtt_ms"],
            microyuan_per_gb=microyuan(terms["yuan_per_gb"]),
        )
        for pair in ends
    ]
    arrow = "→" if one_way else "↔"
    session.answer(
        {"items": answers}, lambda: print(f"{source} {arrow} {destination}: {terms['mbit_per_s']:g} Mbit/s")
    )


@click.command()
@click.argument("site")
@click.option("--yuan-per-kwh", type=click.FloatRange(min=0), help="One price for every hour.")
@click.option(
    "--bands", type=click.Path(path_type=Path), help="CSV of time-of-use bands; with --grid and --flat."
)
@click.option("--grid", "province", metavar="NAME", help="The provincial grid in --bands.")
@click.option("--flat", type=click.FloatRange(min=0), help="CNY a kWh in the flat band.")
@click.option("--file", type=click.Path(path_type=Path), help="A tariff as JSON, as REST takes it.")
@click.option(
    "--pue", default=1.0, show_default=True, type=click.FloatRange(1, 5), help="Power drawn per IT power."
)
@click.option("--gco2-per-kwh", default=0.0, type=click.FloatRange(min=0), help="Carbon intensity.")
@click.option("--source", default="set by hand", show_default=True, help="Where the price is from.")
@grid_verb
def tariff(session: Session, site: str, **options: Any) -> None:
    """Set what electricity costs at a site: one price, a province's bands, or a JSON file."""
    made = _tariff(site, options)
    answer = session.client.set_tariff(made)
    session.answer(answer, lambda: print(f"tariff of {site} is set; see: suan prices"))


def _tariff(site: str, options: Json) -> Any:
    """The tariff that the options describe.

    Raises: Refused `bad_usage`, `bad_tariff` and what a table can have wrong.
    """
    import msgspec

    from suan.grid.site import Series, Tariff

    given = [name for name in ("yuan_per_kwh", "bands", "file") if options[name] is not None]
    if len(given) != 1:
        hint = "give one of --yuan-per-kwh, --bands CSV --grid NAME --flat PRICE, or --file JSON"
        raise Refused("bad_usage", "a tariff has one origin", hint=hint)
    if options["file"] is not None:
        try:
            read = msgspec.json.decode(options["file"].read_bytes(), type=Tariff)
        except (OSError, msgspec.MsgspecError) as error:
            raise Refused(
                "bad_tariff", f"{options['file']}: {error}", hint="see docs/reference/rest.md"
            ) from error
        return msgspec.structs.replace(read, site=site)
    if options["bands"] is not None:
        from suan.feeds.tariffs import china_tou

        if options["province"] is None or options["flat"] is None:
            raise Refused("bad_usage", "--bands needs --grid and --flat", hint="suan tariff --help")
        bands = china_tou(
            options["bands"],
            options["province"],
            flat_yuan_per_kwh=options["flat"],
            pue=options["pue"],
            gco2_per_kwh=options["gco2_per_kwh"],
        )
        return msgspec.structs.replace(bands, site=site)
    series = Series(
        start_at_s=0,
        microyuan_per_kwh=(microyuan(options["yuan_per_kwh"]),),
        gco2_per_kwh=(options["gco2_per_kwh"],),
    )
    return Tariff(site=site, prices=series, pue=options["pue"], source=options["source"])
