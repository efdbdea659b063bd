"""What a scheduler can know of hourly prices: those that are published, and a forecast behind them.

A day-ahead market tells the next day's prices once a day. Bills are made with what the prices really were.
Knows days and hours in UTC; time-of-use bands are public for ever and left alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields

from msgspec.structs import replace

from suan.control.loop import Decide
from suan.grid.action import Plan
from suan.grid.site import Series, Tariff, hour_rate, hour_rates
from suan.grid.state import State
from suan.grid.units import DAY_S, HOUR_S
from suan.rules.policy import Policy

_HISTORY_DAYS = 7  # of which a forecast is the mean, hour by hour
_FORECAST_DAYS = 14  # behind them the series repeats
_DAY_H = DAY_S // HOUR_S


class Published:
    """A decider that sees every site's tariff as far as it is published at its moment."""

    def __init__(self, decider: Decide, published_h: Mapping[str, int], first_s: int) -> None:
        """`published_h`: site -> the hour of the day at which the next day's prices come out; the others are
        known for ever. `first_s`: nothing before it counts as history."""
        self._decider, self._published_h, self._first_s = decider, dict(published_h), first_s
        self._seen: dict[str, tuple[int, Tariff, Tariff]] = {}  # site -> known until, the true one, the view
        self._view = State()
        self._fields = [field.name for field in fields(State) if field.name != "tariffs"]

    def __call__(self, state: State, policy: Policy, now_s: int) -> Plan:
        """The plan of the decider for what can be known now."""
        view = self._view
        for name in self._fields:
            setattr(view, name, getattr(state, name))
        view.tariffs = {
            site: tuple(self._as_known(site, tariff, now_s) for tariff in tariffs)
            for site, tariffs in state.tariffs.items()
        }
        return self._decider(view, policy, now_s)

    def _as_known(self, site: str, tariff: Tariff, now_s: int) -> Tariff:
        hour = self._published_h.get(site)
        if hour is None or not isinstance(tariff.prices, Series):
            return tariff
        day = now_s // DAY_S
        known_until_s = (day + (2 if now_s % DAY_S // HOUR_S >= hour else 1)) * DAY_S
        known = self._seen.get(site)
        if known is None or known[0] != known_until_s or known[1] is not tariff:
            view = as_published(tariff, day * DAY_S, known_until_s, first_s=self._first_s)
            known = self._seen[site] = (known_until_s, tariff, view)
        return known[2]


def as_published(tariff: Tariff, from_s: int, known_until_s: int, *, first_s: int) -> Tariff:
    """The tariff from `from_s` on: true up to `known_until_s`, then the mean of the same hour of the week
    before, of which nothing before `first_s` is known."""
    first, end = from_s // HOUR_S, known_until_s // HOUR_S
    rates = list(zip(*hour_rates(tariff, first, end - first), strict=True))
    forecast = []
    for hour in range(end, end + _DAY_H):
        before = [hour - days * _DAY_H for days in range(1, _HISTORY_DAYS + 1)]
        known = [hour_rate(tariff, past) for past in before if past * HOUR_S >= first_s]
        if not known:
            known = [hour_rate(tariff, hour - _DAY_H)]
        forecast.append((round(_mean(money for money, _ in known)), _mean(gco2 for _, gco2 in known)))
    rates += forecast * _FORECAST_DAYS
    prices = Series(
        start_at_s=from_s,
        microyuan_per_kwh=tuple(money for money, _ in rates),
        gco2_per_kwh=tuple(gco2 for _, gco2 in rates),
    )
    return replace(tariff, prices=prices, source=f"{tariff.source}, published {_DAY_H} hours ahead")


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
