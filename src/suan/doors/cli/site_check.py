"""The verb site: `suan site check` says whether a site is ready, grades it, and names what to mend and how.

Knows the grades and how findings are shown. What is looked at is `site_findings.py`. Works before the site
has joined, with a site.toml or join's options, and after, with the key that it has.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from suan.doors.cli.doctor import FAIL, WARN, Finding, print_findings
from suan.doors.cli.session import Session, grid_verb

Json = dict[str, Any]
# Without these no run can start, whatever else is well.
NEEDED = frozenset({"engine", "pools", "grid", "key", "store", "free space"})
GRADES = {
    "A": "ready, nothing to mend",
    "B": "ready, one or two things to mend",
    "C": "runs will start; three or more things to mend",
    "D": "runs will start, and something is wrong",
    "F": "no run can start",
}


def grade_of(findings: list[Finding]) -> str:
    """A to F, as `GRADES` has it."""
    failed = [finding for finding in findings if finding.verdict == FAIL]
    warnings = sum(finding.verdict == WARN for finding in findings)
    if any(finding.check in NEEDED for finding in failed):
        return "F"
    if failed:
        return "D"
    return "C" if warnings > 2 else "B" if warnings else "A"


@click.group(invoke_without_command=True)
@click.pass_context
@grid_verb
def site(session: Session, context: click.Context) -> None:
    """One site, seen from where its agent runs: `suan site check`."""
    if context.invoked_subcommand is None:
        session.answer({"verbs": list(site.commands)}, lambda: print(context.get_help()))


@site.command()
@click.argument("address", metavar="URL", required=False)
@click.option("--site", metavar="NAME", help="The site's name.")
@click.option("--state", "folder", type=click.Path(path_type=Path), help="Where it keeps its store and runs.")
@click.option("--config", "config", type=click.Path(path_type=Path), help="All of it as a site.toml.")
@click.option("--pool", "pools", multiple=True, metavar="NAME:ACCELERATOR:NODESxDEVICES", help="As for join.")
@click.option("--engine", help="What starts its runs: local, slurm, ray, kubernetes [local].")
@click.option("--engine-option", "engine_options", multiple=True, metavar="NAME=VALUE", help="As for join.")
@click.option("--data-host", help="Address on which other sites fetch data [127.0.0.1].")
@click.option("--data-url", help="What others call that address by.")
@grid_verb
def check(session: Session, *, address: str | None, config: Path | None, **options: Any) -> int:
    """Say how ready a site is, from A to F, and for each finding what to do. Exits 1 with F.

    Takes what `suan join` takes, before the site joins and after; disturbs no agent that runs there.
    """
    from suan.doors.cli.session import read_config
    from suan.doors.cli.site_config import read_site

    saved = read_config().get("url")
    given = options | {"url": address or session.url_option or _url_of(options["folder"]) or saved}
    described = read_site(config, given | {"pools": options["pools"] or None})
    findings = list(_findings(described))
    grade = grade_of(findings)
    answer = {
        "site": described.site,
        "grade": grade,
        "means": GRADES[grade],
        "findings": [finding._asdict() for finding in findings],
    }
    session.answer(answer, lambda: _say(described.site, grade, findings))
    return int(grade == "F")


def _url_of(folder: Path | None) -> str:
    """The grid that the site in this folder has joined, "" for none."""
    return str(_kept(folder).get("url", "")) if folder else ""


def _kept(folder: Path) -> Json:
    try:
        found = json.loads((folder / "site.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _findings(described: Any) -> Iterator[Finding]:
    from suan.doors.cli import site_findings as look

    kept = _kept(described.folder)
    key = str(kept.get("key", "")) if kept.get("site") == described.site else ""
    engine, found = look.engine_findings(described)
    yield from found
    pools = engine.pools() if engine is not None else ()
    yield from look.accelerator_findings(described, pools)
    yield from look.grid_findings(described, key)
    yield look.door_finding(described)
    yield from look.store_findings(described)
    yield from look.power_findings(described, pools)
    yield from look.isolation_findings(described)
    yield from look.library_findings(described)


def _say(name: str, grade: str, findings: list[Finding]) -> None:
    print_findings(findings)
    print(f"{name}: {grade}, {GRADES[grade]}")
