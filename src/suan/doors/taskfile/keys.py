"""Reading one mapping key by key: types, ranges, unknown keys with the nearest known one, and places.

Knows how to complain. Does not know any key's meaning.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from suan.doors.taskfile import document
from suan.doors.taskfile.document import Mapping, Scalar, Spot, place
from suan.grid.error import Refused

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_MAX_SUBSTITUTED_CHARACTERS = 1 << 16


class Keys:
    """The keys of one mapping, each taken once. `close` refuses what nobody took."""

    def __init__(self, spot: Spot, path: str, notes: list[str]) -> None:
        self.path = path
        self.notes = notes
        if not isinstance(spot, Mapping):
            refuse(
                spot,
                path,
                "bad_type",
                f"must be keys and values, not {kind(spot)}",
                "write KEY: VALUE below it",
            )
        self.spot: Mapping = spot
        self._known: list[str] = []

    def __contains__(self, name: str) -> bool:
        """Whether the key has a value; `key:` with nothing behind it counts as left out, as in SkyPilot."""
        value = self.spot.items.get(name)
        return value is not None and not (isinstance(value, Scalar) and value.value is None)

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Spot | None:
        self._known.append(name)
        return self.spot.items[name] if name in self else None

    def text(self, name: str, default: str = "") -> str:
        value = self.take(name)
        return default if value is None else as_text(value, self.at(name))

    def whole(self, name: str, default: int | None, *, least: int = 0) -> int | None:
        value = self.take(name)
        return default if value is None else as_whole(value, self.at(name), least=least)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        return False if value is None else as_flag(value, self.at(name))

    def inner(self, name: str) -> "Keys | None":
        value = self.take(name)
        return None if value is None else Keys(value, self.at(name), self.notes)

    def parsed(self, name: str, parse: Callable[[str], Any]) -> Any:
        """What `parse` makes of the text, None where it is left out; its refusal gains path and line."""
        value = self.take(name)
        if value is None:
            return None
        with at(value, self.at(name)):
            return parse(as_text(value, self.at(name)))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; one text alone is a list of one."""
        value = self.take(name)
        if value is None:
            return ()
        items = value.items if isinstance(value, document.Sequence) else (value,)
        return tuple(as_text(item, self.at(name)) for item in items)

    def set_aside(self, name: str, why: str) -> None:
        """Takes the key and says in the task's notes that it has no effect here, and why."""
        value = self.take(name)
        if value is not None:
            shown = " " + " ".join(value.text[:60].split()) if isinstance(value, Scalar) else ""
            self.notes.append(f"{self.at(name)}:{shown} is set aside: {why}")

    def close(self) -> None:
        """Raises: Refused `bad_key` for the first key that nothing took."""
        for name, key in self.spot.key_spots.items():
            if name not in self._known:
                near = difflib.get_close_matches(name[:100], self._known, n=1, cutoff=0.6)
                known = sorted({other for other in self._known if not other.startswith("_")})
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
                refuse(key, self.at(name[:100]), "bad_key", "is not a key that task files have", hint)


def refuse(spot: Spot, path: str, code: str, what: str, hint: str) -> NoReturn:
    """Raises: Refused, its message beginning with the path and the place."""
    where: dict[str, Any] = {"path": path, "line": spot.line, "column": spot.column}
    raise Refused(code, f"{path or 'the document'} ({place(spot)}): {what}", hint=hint, **where)


@contextmanager
def at(spot: Spot, path: str) -> Iterator[None]:
    """Gives path and line to a refusal that comes from below and has none."""
    try:
        yield
    except Refused as error:
        if "line" in error.fields:
            raise
        where: dict[str, Any] = {"path": path, **error.fields, "line": spot.line, "column": spot.column}
        what = error.what.removeprefix(f"{where['path']}: ")[:500]
        raise Refused(
            error.code, f"{where['path']} ({place(spot)}): {what}", hint=error.hint, **where
        ) from error


def kind(spot: Spot) -> str:
    match spot:
        case Mapping():
            return "keys and values"
        case document.Sequence():
            return "a list"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=bool()):
            return "true or false"
        case Scalar(value=int() | float()):
            return "a number"
    return "text"


def shown(spot: Spot) -> str:
    """A scalar as written, cut; anything else by its kind. Not for secrets."""
    return repr(spot.text[:40]) if isinstance(spot, Scalar) and spot.text else kind(spot)


def as_text(spot: Spot, path: str) -> str:
    """The value's text; numbers count as they are written."""
    if not isinstance(spot, Scalar) or spot.value is None:
        refuse(spot, path, "bad_type", f"must be text, not {kind(spot)}", "write it on one line, or after |")
    return spot.text


def as_whole(spot: Spot, path: str, *, least: int = 0) -> int:
    value = spot.value if isinstance(spot, Scalar) else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(
            spot,
            path,
            "bad_type",
            f"must be a whole number, not {shown(spot)}",
            f"write a number from {least} up",
        )
    if value < least:
        refuse(spot, path, "bad_value", f"{value} is too small", f"write a number from {least} up")
    if value > 1_000_000:
        refuse(spot, path, "bad_value", f"{value} is too large", "write at most 1000000")
    return value


def as_flag(spot: Spot, path: str) -> bool:
    if isinstance(spot, Scalar):
        if isinstance(spot.value, bool):
            return spot.value
        if spot.text.lower() in ("yes", "on", "no", "off"):  # YAML 1.1, which SkyPilot reads
            return spot.text.lower() in ("yes", "on")
    refuse(spot, path, "bad_type", f"must be true or false, not {shown(spot)}", "write true or false")


def positive(text: str) -> float:
    """Raises: Refused `bad_value` unless the text is a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and 0 < number <= 1e9):
        raise Refused(
            "bad_value", f"{text[:60]!r} is not a number above 0", hint="write a number such as 4 or 0.5"
        )
    return number


def substituted(text: str, values: dict[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced where the name is known, else left alone, as SkyPilot does.

    Raises: Refused `too_big` when the result is longer than 64 KiB.
    """
    spent = len(text)

    def value(match: re.Match[str]) -> str:
        nonlocal spent
        replacement = values.get(match[1] or match[2], match[0])
        spent += len(replacement)
        if spent > _MAX_SUBSTITUTED_CHARACTERS:
            raise Refused("too_big", "the variables in it make it longer than 64 KiB", hint="shorten them")
        return replacement

    return _VARIABLE.sub(value, text)


def first_of(keys: Keys, names: Sequence[str]) -> str | None:
    """The one of these names that is given.

    Raises: Refused `conflicting_keys` when several are.
    """
    given = [name for name in names if name in keys]
    if len(given) > 1:
        spot = keys.spot.key_spots[given[1]]
        what = f"cannot stand beside {keys.at(given[0])}"
        refuse(spot, keys.at(given[1]), "conflicting_keys", what, f"keep {given[0]} or {given[1]}")
    return given[0] if given else None
