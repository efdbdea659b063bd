"""`suan simulate`: a world, a trace, policies side by side. Prints; decides nothing."""

import json
import sys
from pathlib import Path

import click


@click.command("simulate")
@click.argument("world", type=click.Path(path_type=Path), metavar="WORLD.toml")
@click.option(
    "--jobs", "jobs", type=click.Path(path_type=Path), required=True, help="Trace of jobs: CSV or CSV.GZ."
)
@click.option(
    "--policy", "policies", multiple=True, metavar="NAME", help="Repeat to compare. [default: market]"
)
@click.option("--seed", default=0, show_default=True, help="Draws the moments of random faults.")
@click.option("--until-s", type=click.IntRange(min=0), default=None, help="Stop after so many seconds.")
@click.option("--html", type=click.Path(path_type=Path), default=None, help="Write a page with plots, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a policy, a line each.")
def simulate_command(
    *,
    world: Path,
    jobs: Path,
    policies: tuple[str, ...],
    seed: int,
    until_s: int | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Run a trace of jobs through the grid in virtual time.

    The control plane is the real one; sites, links and hours are simulated. See docs/reference/simulate.md.
    """
    from suan.sim.compare import compare

    def tell(line: str) -> None:
        click.echo(line, err=True)

    outcomes = compare(
        world,
        jobs,
        policies,
        seed=seed,
        until_s=until_s,
        tell=tell if not as_json or sys.stderr.isatty() else None,
        timelines=("*",) if html else (),
    )
    if html is not None:
        from suan.sim.page import page

        html.write_text(page(outcomes, world=world.name, jobs=jobs.name), "utf-8")
    if as_json:
        for outcome in outcomes:
            click.echo(json.dumps(outcome.report))
        return
    from rich.console import Console

    from suan.sim.report import table

    Console().print(table([outcome.report for outcome in outcomes]))
    if html is not None:
        click.echo(f"wrote {html}", err=True)
