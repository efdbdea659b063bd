"""`suan simulate`: a world, a trace, policies side by side. Prints; decides nothing."""

import json
from pathlib import Path

import click


@click.command("simulate")
@click.argument("world", type=click.Path(path_type=Path), metavar="WORLD.toml")
@click.option(
    "--jobs", "jobs", type=click.Path(path_type=Path), required=True, help="Trace of jobs: CSV or CSV.GZ."
)
@click.option(
    "--policy", "policies", multiple=True, metavar="NAME", help="Repeat to compare. [default: greedy]"
)
@click.option("--seed", default=0, show_default=True, help="Draws the moments of random faults.")
@click.option("--until-s", type=click.IntRange(min=0), default=None, help="Stop after so many seconds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a policy, a line each.")
def simulate_command(
    *, world: Path, jobs: Path, policies: tuple[str, ...], seed: int, until_s: int | None, as_json: bool
) -> None:
    """Run a trace of jobs through the grid in virtual time.

    The control plane is the real one; sites, links and hours are simulated. See docs/reference/simulate.md.
    """
    from suan.sim.run import simulate

    reports = simulate(world, jobs, policies, seed=seed, until_s=until_s)
    if as_json:
        for row in reports:
            click.echo(json.dumps(row))
        return
    from rich.console import Console

    from suan.sim.report import table

    Console().print(table(reports))
