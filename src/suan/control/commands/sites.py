"""Sites join, drain, and get their links and tariffs."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from suan.control.commands.command import (
    Command,
    check_name,
    key_hash,
    key_of,
    known_site,
    new_secret,
    next_key_id,
)
from suan.grid import fact as f
from suan.grid.account import Key, Role
from suan.grid.error import NotNow, Refused
from suan.grid.site import Bands, Link, Series, Site, SitePhase, Tariff
from suan.grid.state import State


class Joined(msgspec.Struct, frozen=True):
    """What a site is told once: its key, and the epoch its reports must carry."""

    site: str
    key: str
    epoch: int


def issue_join_token(site: str, expires_s: int = 3600, label: str = "") -> Command[str]:
    """The secret with which `site` may join, once, within `expires_s`.

    Raises: Refused `bad_name`.
    """
    check_name("site", site)
    secret = new_secret()

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], str]:
        key = Key(
            id=next_key_id(state),
            hash=key_hash(secret),
            role=Role.SITE,
            site=site,
            label=label or "join token",
            one_time=True,
            expires_at_s=now_s + expires_s,
        )
        return (f.KeyIssued(at_s=now_s, key=key),), secret

    return command


def join_site(
    token: str, site: str, *, region: str = "", engine: str = "local", labels: dict[str, str] | None = None
) -> Command[Joined]:
    """Spends the token for the site's own key. A site that joins again keeps its runs; its older keys end.

    Raises: Refused `bad_token`, `bad_name`.
    """
    check_name("site", site)
    secret = new_secret()

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], Joined]:
        shown = key_of(state, token, now_s)
        if shown is None or not shown.one_time or shown.site != site:
            raise Refused(
                "bad_token",
                f"this is no unused join token for {site}",
                hint=f"an operator makes one: suan join-token {site}",
                status=401,
            )
        facts: list[f.Fact] = [
            f.SiteJoined(at_s=now_s, site=site, region=region, engine=engine, labels=labels or {})
        ]
        facts += [
            f.KeyRevoked(at_s=now_s, key=key.id)
            for key in state.keys.values()
            if key.id == shown.id or (key.site == site and not key.one_time)
        ]
        key = Key(id=next_key_id(state), hash=key_hash(secret), role=Role.SITE, site=site, label="site")
        facts.append(f.KeyIssued(at_s=now_s, key=key))
        known = state.sites.get(site)
        return facts, Joined(site, secret, known.epoch if known else Site(name=site).epoch)

    return command


def drain_site(site: str, draining: bool) -> Command[None]:
    """A draining site takes no new runs; those it has go on. Twice is once.

    Raises: Refused `unknown_site`; NotNow `site_silent`, because what is silent has a phase of its own.
    """

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        phase = known_site(state, site).phase
        if phase in (SitePhase.SILENT, SitePhase.FENCED):
            raise NotNow(
                "site_silent",
                f"{site} does not answer",
                hint="look at its agent: suan sites",
                retry_after_s=10,
            )
        if draining == (phase == SitePhase.DRAINING):
            return (), None
        return (f.SiteDraining(at_s=now_s, site=site, draining=draining),), None

    return command


def set_link(link: Link) -> Command[None]:
    """Declares one direction between two sites, in place of what was known of it.

    Raises: Refused `unknown_site`, `out_of_range`.
    """

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        known_site(state, link.source)
        known_site(state, link.destination)
        if link.source == link.destination:
            raise Refused("out_of_range", "a link has two ends", hint="name two different sites")
        if not 0 < link.mbit_per_s <= 1e7 or not 0 <= link.rtt_ms <= 1e5 or link.microyuan_per_gb < 0:
            raise Refused(
                "out_of_range", "bandwidth, round trip or price make no sense", hint="give Mbit/s above 0"
            )
        return (f.LinkSet(at_s=now_s, link=replace(link, at_s=now_s)),), None

    return command


def set_tariff(tariff: Tariff) -> Command[None]:
    """The site's prices from its `valid_from_s` on; runs keep the prices that they were placed at.

    Raises: Refused `unknown_site`, `bad_tariff`.
    """

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        known_site(state, tariff.site)
        if why := fault_in_tariff(tariff):
            raise Refused(
                "bad_tariff", f"the tariff of {tariff.site}: {why}", hint="see docs/reference/rest.md"
            )
        return (f.TariffSet(at_s=now_s, tariff=tariff),), None

    return command


def fault_in_tariff(tariff: Tariff) -> str:
    """Why no price could be read from it at some hour; "" when it can at every hour."""
    if not 1 <= tariff.pue <= 5:
        return "PUE lies between 1 and 5"
    match tariff.prices:
        case Bands() as bands:
            if len(bands.months) not in (1, 12) or any(len(day) != 24 for day in bands.months):
                return "months are 12 lists of 24 bands, or one"
            unknown_bands = {band for day in bands.months for band in day} - bands.ratios.keys()
            if unknown_bands:
                return f"no ratio for the band {min(unknown_bands)}"
            if bands.flat_microyuan_per_kwh < 0 or any(ratio < 0 for ratio in bands.ratios.values()):
                return "a price is negative"
        case Series() as series:
            if not series.microyuan_per_kwh:
                return "a series has at least one hour"
            if len(series.gco2_per_kwh) not in (0, 1, len(series.microyuan_per_kwh)):
                return "carbon has as many hours as the price, or one, or none"
    return ""
