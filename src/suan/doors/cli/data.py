"""Verbs on artifacts: ls, data, put, get.

Knows how artifacts are shown and how an upload reports its progress. Chunks and hashes are
`doors/carry.py`'s.
"""

import sys
import time
from pathlib import Path
from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb
from suan.grid.units import bytes_text

Json = dict[str, Any]


@click.command()
@click.option("--kind", metavar="KIND", help="Only dataset, tokenizer, model, report or folder.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@click.option("--cursor", metavar="CURSOR", help="Go on where a page ended (`next_cursor`).")
@grid_verb
def ls(session: Session, kind: str | None, limit: int, cursor: str | None) -> None:
    """Artifacts, newest first."""
    page = session.client.artifacts(limit=limit, cursor=cursor, kind=kind)

    def say() -> None:
        if not page["items"]:
            print("no artifacts; put one: suan put FOLDER dataset:NAME")
            return
        rows = [
            (
                a["id"],
                bytes_text(a["bytes"]),
                a["files"],
                _sites(a),
                a.get("job") or "put",
                render.moment(a["created_at_s"]),
            )
            for a in page["items"]
        ]
        print(render.table(("artifact", "size", "files", "at", "made by", "when"), rows, right="size files"))
        if page.get("next_cursor"):
            print(f"more: suan ls --cursor {page['next_cursor']}")

    session.answer(page, say)


def _sites(artifact: Json) -> str:
    """Where its copies are."""
    return ", ".join(replica["site"] for replica in artifact["replicas"])


@click.command()
@click.argument("name", metavar="KIND:NAME[@VERSION]")
@grid_verb
def data(session: Session, name: str) -> None:
    """An artifact in full: copies, transfers, what it was made from."""
    found = session.client.artifact(name)

    def say() -> None:
        size = f"{bytes_text(found['bytes'])} in {found['files']} files"
        print(f"{render.paint(found['id'], render.BOLD)}  {size}")
        print(f"  digest    {found['digest']}")
        print(f"  copies    {_sites(found) or 'none'}")
        maker = found["job"] or f"put by {found['tenant']}"
        print(f"  made by   {maker}, {render.moment(found['created_at_s'])}")
        for name in found.get("inputs") or ():
            print(f"  from      {name}")
        from suan.doors.cli.jobs import metrics_text

        if found.get("metrics"):
            print(f"  metrics   {metrics_text(found['metrics'])}")
        for made in found["used_by"]:
            print(f"  used by   {made}")
        for moving in found["transfers"]:
            transfer = moving["transfer"]
            so_far = f"{bytes_text(moving['arrived_bytes'])} of {bytes_text(transfer['bytes'])}"
            print(f"  moving    {transfer['source']} → {transfer['destination']}, {so_far} there")

    session.answer(found, say)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("name", metavar="KIND:NAME")
@click.option(
    "--site", default="", metavar="SITE", help="Where it is to be kept; needed when there are several."
)
@grid_verb
def put(session: Session, folder: Path, name: str, site: str) -> None:
    """Upload a folder as a new version of an artifact. What the grid has already is not sent again."""
    meter = Meter(session, f"uploading {folder}")
    artifact = session.client.put(folder, name, site, progress=meter)
    meter.end()
    said = f"{artifact['id']}  {bytes_text(artifact['bytes'])} in {artifact['files']} files"
    session.answer(artifact, lambda: print(f"{said}\nnext: suan data {artifact['id']}"))


@click.command()
@click.argument("name", metavar="KIND:NAME[@VERSION]")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--wait", "wait_s", default=600.0, show_default=True, help="Seconds to wait for it to reach the grid."
)
@grid_verb
def get(session: Session, name: str, folder: Path, wait_s: float) -> None:
    """Download an artifact into a new folder, verified: all of it or nothing."""
    meter = Meter(session, f"fetching {name}")
    artifact = session.client.get(name, folder, wait_s=wait_s, progress=meter)
    meter.end()
    session.answer(
        artifact | {"folder": str(folder)}, lambda: print(f"{artifact.get('id', name)} is in {folder}")
    )


class Meter:
    """A line on standard error that says how many bytes are done, on a terminal only."""

    def __init__(self, session: Session, what: str) -> None:
        self._on = sys.stderr.isatty() and not session.as_json
        self._what, self._shown_s = what, 0.0

    def __call__(self, done: int, total: int) -> None:
        if self._on and (time.monotonic() - self._shown_s > 0.1 or done >= total):
            self._shown_s = time.monotonic()
            print(
                f"\r{self._what}: {bytes_text(done)} of {bytes_text(total)}\x1b[K",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        if self._on and self._shown_s:
            print(file=sys.stderr)
