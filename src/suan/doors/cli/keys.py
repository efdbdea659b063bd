"""Verbs on who may do what: tenant, key, join-token.

Knows the options. What each role may do is decided by the grid.
"""

from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb
from suan.grid.error import Refused
from suan.grid.units import duration_s, microyuan

Json = dict[str, Any]
_NONE = "none"  # takes a setting back


@click.group(invoke_without_command=True)
@click.pass_context
@grid_verb
def tenant(session: Session, context: click.Context) -> None:
    """Tenants: who pays, their share, quota and budget."""
    if context.invoked_subcommand is not None:
        return
    found = session.client.tenants()

    def say() -> None:
        rows = [
            (t["name"], t.get("parent", ""), f"{t['weight']:g}",
             *(_devices(t["quota"].get(f"{table}_devices", {})) for table in ("nominal", "borrow", "lend")),
             render.cny(t["budget"]["limit_microyuan"]))
            for t in found
        ]  # fmt: skip
        print(
            render.table(
                ("tenant", "parent", "weight", "guaranteed", "may borrow", "lends", "budget CNY"),
                rows,
                right="weight budget CNY",
            )
        )

    session.answer({"items": found}, say)


def _devices(by_kind: Json) -> str:
    return ", ".join(f"{kind}: {count}" for kind, count in by_kind.items())


@tenant.command("set")
@click.argument("name")
@click.option("--parent", metavar="TENANT", help="The tenant above it, with whose others it shares; or none.")
@click.option(
    "--weight",
    type=click.FloatRange(min=0, min_open=True),
    help="Its share against the others' below the same parent.",
)
@click.option("--budget-yuan", type=click.FloatRange(min=0), help="What it may spend.")
@click.option(
    "--nominal",
    multiple=True,
    metavar="KIND=N",
    help="Devices it is guaranteed; * is each kind not named, none takes all of this option back.",
)
@click.option("--borrow", multiple=True, metavar="KIND=N", help="How many more it may borrow; or none.")
@click.option("--lend", multiple=True, metavar="KIND=N", help="How many idle ones others may use; or none.")
@grid_verb
def set_tenant(session: Session, name: str, **options: Any) -> None:
    """Make a tenant or change it; what is left out stays."""
    settings: Json = {}
    if options["parent"] is not None:
        settings["parent"] = "" if options["parent"] == _NONE else options["parent"]
    if options["weight"] is not None:
        settings["weight"] = options["weight"]
    if options["budget_yuan"] is not None:
        settings["budget"] = {"limit_microyuan": microyuan(options["budget_yuan"])}
    quota = {
        f"{option}_devices": _counts(options[option])
        for option in ("nominal", "borrow", "lend")
        if options[option]
    }
    if quota:
        settings["quota"] = quota
    answer = session.client.set_tenant(name, **settings)
    session.answer(
        answer,
        lambda: print(f"tenant {name} is set; give it a key: suan key issue --role member --tenant {name}"),
    )


def _counts(pairs: tuple[str, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    if pairs == (_NONE,):
        return counts
    for pair in pairs:
        kind, _, count = pair.rpartition("=")
        if not kind or not count.isdecimal():
            raise Refused("bad_usage", f"{pair!r} is no number of devices", hint="write H100=8")
        counts[kind] = int(count)
    return counts


@click.group(invoke_without_command=True)
@click.pass_context
@grid_verb
def key(session: Session, context: click.Context) -> None:
    """Keys: list, issue, revoke. Secrets are shown once, when they are issued."""
    if context.invoked_subcommand is not None:
        return
    found = session.client.keys()

    def say() -> None:
        rows = [
            (
                k["id"],
                k["role"],
                k.get("tenant"),
                k.get("site"),
                k.get("label"),
                render.moment(k.get("expires_at_s")),
            )
            for k in found
        ]
        print(render.table(("key", "role", "tenant", "site", "label", "expires"), rows))

    session.answer({"items": found}, say)


@key.command("issue")
@click.option("--role", required=True, type=click.Choice(("viewer", "member", "operator", "admin")))
@click.option("--tenant", default="default", show_default=True)
@click.option("--label", default="", help="What it is for.")
@click.option("--expires", metavar="TIME", help="30d, 12h …; never when left out.")
@grid_verb
def issue(session: Session, *, role: str, tenant: str, label: str, expires: str | None) -> None:
    """Make a key; its secret is on standard output, this once."""
    expires_s = None if expires is None else duration_s(expires)
    made = session.client.issue_key(role, tenant=tenant, label=label, expires_s=expires_s)
    session.note(f"key {made['id']}, {role} of {tenant}; keep the secret, it is not shown again:")
    session.answer(made, lambda: print(made["key"]))


@key.command("revoke")
@click.argument("key_id", metavar="KEY")
@grid_verb
def revoke(session: Session, key_id: str) -> None:
    """Make a key worth nothing, at once."""
    session.client.revoke_key(key_id)
    session.answer({"id": key_id, "revoked": True}, lambda: print(f"{key_id} is revoked"))


@click.command()
@click.argument("site")
@click.option(
    "--expires", default="1h", show_default=True, metavar="TIME", help="For how long it can be used."
)
@grid_verb
def join_token(session: Session, site: str, expires: str) -> None:
    """A one-time token with which SITE joins; on standard output."""
    token = session.client.join_token(site, duration_s(expires))
    url = session.client.url
    session.note(f"on a machine of {site}: suan join {url} --site {site} --token TOKEN --state DIR")
    session.answer({"site": site, "token": token, "url": url}, lambda: print(token))
