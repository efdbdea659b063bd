"""Lengths of time, dates, money and ranges as a person writes them in a task file."""

import datetime
import re

from suan.doors.taskfile.keys import positive
from suan.grid.error import Refused
from suan.grid.units import DAY_S, HOUR_S, duration_s, microyuan

MAX_LENGTH_S = 10 * 366 * DAY_S
_BEIJING = datetime.timezone(datetime.timedelta(seconds=8 * HOUR_S))
_MONEY = re.compile(r"(?:¥|￥)? *([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+) *([A-Za-z元]*)")
_RANGE = re.compile(r"([0-9]{1,6}) *(?:- *([0-9]{1,6}))?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")


def length_s(text: str) -> int:
    """Seconds in `90`, `10m`, `1h30m`, `2d`; above 0.

    Raises: Refused `bad_duration`.
    """
    seconds = duration_s(text) if len(text) < 60 else 0
    if not 0 < seconds <= MAX_LENGTH_S:
        raise Refused(
            "bad_duration", f"{text[:60]!r} is not between 1 s and 10 years", hint="write 90s, 10m or 12h"
        )
    return seconds


def deadline_s(text: str, now_s: int | None) -> int:
    """Seconds from submission to a deadline that is a length of time or a date.

    A date alone means its end; a time without an offset is Beijing time, like the tariffs.
    Raises: Refused `bad_deadline` for a date that is none, is past, or cannot be counted without `now_s`.
    """
    if not _DATE.fullmatch(text):
        return length_s(text)
    hint = "write 12h, 2027-01-31 or 2027-01-31T18:00+08:00"
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=_BEIJING)
        at_s = int(moment.timestamp()) + (DAY_S if len(text.strip()) == 10 else 0)
    except (ValueError, OverflowError):
        raise Refused("bad_deadline", f"{text[:60]!r} is not a date", hint=hint) from None
    if now_s is None:
        raise Refused(
            "bad_deadline", "a date needs a clock, and there is none here", hint="write a length: 12h"
        )
    if not 0 < at_s - now_s <= MAX_LENGTH_S:
        raise Refused("bad_deadline", f"{text[:60]!r} is past, or more than 10 years away", hint=hint)
    return at_s - now_s


def max_cost_microyuan(text: str) -> int:
    """Micro-yuan in `300 CNY`, `300`, `¥0.50`, `1,200 yuan`.

    Raises: Refused `bad_money`.
    """
    match = _MONEY.fullmatch(text.strip()) if len(text) < 60 else None
    if not match or match[2].lower() not in ("", "cny", "rmb", "yuan", "元"):
        raise Refused("bad_money", f"{text[:60]!r} is not an amount in yuan", hint="write 300 CNY")
    return microyuan(positive(match[1].replace(",", "")))


def node_range(text: str) -> tuple[int, int]:
    """(1, 8) in `1-8`, (4, 4) in `4`.

    Raises: Refused `bad_value`.
    """
    match = _RANGE.fullmatch(text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= 100_000:
        raise Refused("bad_value", f"{text[:60]!r} is not a range of nodes", hint="write 1-8")
    return low, high
