"""Money, time, sizes: integer micro-yuan, integer seconds, and the few conversions that everything shares.

Knows how to read and print quantities. Knows nothing of prices or clocks.
"""

import re

from suan.grid.error import Refused

MICROYUAN_PER_YUAN = 1_000_000
HOUR_S = 3600
DAY_S = 86_400
BYTES_PER_GB = 1_000_000_000
BYTES_PER_GIB = 1 << 30

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|hr|d|w)?", re.IGNORECASE)
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": HOUR_S, "hr": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)


def duration_s(text: str | int | float, *, bare_unit: str = "s") -> int:
    """Seconds in `90`, `10m`, `1h30m`, `2d`; a bare number counts `bare_unit`s.

    Raises: Refused `bad_duration`.
    """
    source = str(text).strip()
    total, position = 0.0, 0
    for match in _DURATION.finditer(source):
        if match.start() != position:
            break
        total += float(match[1]) * _SECONDS[(match[2] or bare_unit).lower()]
        position = match.end()
        while position < len(source) and source[position] == " ":
            position += 1
    if not source or position != len(source):
        raise Refused(
            "bad_duration", f"{source!r} is not a length of time", hint="write 90s, 10m, 1h30m or 2d"
        )
    return round(total)


def size_bytes(text: str | int | float) -> int:
    """Bytes in `10GB` (powers of 1000), `10GiB` (powers of 1024) or a bare number of bytes.

    Raises: Refused `bad_size`.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise Refused("bad_size", f"{text!r} is not a size", hint="write 500MB, 10GB or 4GiB")
    step = 1024 if match[3] else 1000
    power = " kmgtp".index(match[2].lower() or " ")
    return round(float(match[1]) * float(step**power))


def microyuan(yuan: float) -> int:
    """Micro-yuan nearest to `yuan`."""
    return round(yuan * MICROYUAN_PER_YUAN)


def yuan_text(amount_microyuan: int) -> str:
    """`¥1,234.50`; small sums keep enough digits to be told apart from zero: `¥0.000312`."""
    yuan = amount_microyuan / MICROYUAN_PER_YUAN
    if amount_microyuan and abs(yuan) < 0.01:
        return f"¥{yuan:.6f}"
    return f"¥{yuan:,.4f}" if abs(yuan) < 1 else f"¥{yuan:,.2f}"


def duration_text(seconds: float) -> str:
    """`42s`, `3m05s`, `2h10m`, `4d03h`."""
    whole = max(0, round(seconds))
    for size, unit, rest_size, rest_unit in (
        (DAY_S, "d", HOUR_S, "h"),
        (HOUR_S, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // rest_size:02d}{rest_unit}"
    return f"{whole}s"


def bytes_text(count: float) -> str:
    """`12.3 MB`, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
