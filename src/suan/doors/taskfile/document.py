"""YAML text as a tree whose every value knows its line and column. Bounded in depth, count and expanded size.

Knows YAML. Does not know what any key means. The parser is ruamel.yaml's; this module only puts its events
together, because the bounds must hold while a hostile file is being read, not after.
"""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
from ruamel.yaml import YAML, events
from ruamel.yaml.error import YAMLError

from suan.grid.error import Refused

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_EVENTS = 10_000  # about half a second of parsing
MAX_EXPANDED_NODES = 20_000  # with every alias written out
MAX_EXPANDED_CHARACTERS = 4 << 20

_BOOL = {"true": True, "false": False}
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")  # escapes can make what no file or JSON can hold
_INT = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """One value and where it stands; lines and columns count from 1."""

    line: int
    column: int
    nodes: int  # in it, aliases written out
    characters: int


class Scalar(Spot, frozen=True, kw_only=True):
    value: str | int | float | bool | None
    text: str  # as written


class Sequence(Spot, frozen=True, kw_only=True):
    items: tuple[Spot, ...]


class Mapping(Spot, frozen=True, kw_only=True):
    """Keys in the order written; `key_spots` says where each one stands."""

    items: dict[str, Spot]
    key_spots: dict[str, Scalar]


class _Open:
    """A sequence or mapping whose end has not been read."""

    def __init__(self, event: Any) -> None:
        self.mapping = isinstance(event, events.MappingStartEvent)
        self.anchor: str | None = event.anchor
        self.mark = event.start_mark
        self.children: list[Spot] = []
        self.nodes = 1
        self.characters = 0


def documents(text: str) -> tuple[Spot, ...]:
    """Every document of the text.

    Raises: Refused `too_big` (more than 1 MiB, 10,000 parts, 50 levels, or aliases that expand to more than
    20,000 values), `bad_yaml` (not YAML, tabs, unknown tags), `duplicate_key`, `bad_key` (a key not text).
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise Refused(
            "too_big", "the task file is larger than 1 MiB", hint="put data in an artifact: suan data put"
        )
    found: list[Spot] = []
    open_nodes: list[_Open] = []
    anchors: dict[str, Spot] = {}
    for count, event in enumerate(_events(text)):
        if count > MAX_EVENTS:
            _refuse("too_big", "the file has more than 10,000 parts", event.start_mark, "split it")
        node: Spot | None = None
        if isinstance(event, events.DocumentStartEvent):
            anchors = {}
        elif isinstance(event, events.SequenceStartEvent | events.MappingStartEvent):
            _check_tag(event)
            open_nodes.append(_Open(event))
            if len(open_nodes) > MAX_DEPTH:
                _refuse(
                    "too_big", f"values are nested deeper than {MAX_DEPTH}", event.start_mark, "flatten it"
                )
        elif isinstance(event, events.SequenceEndEvent | events.MappingEndEvent):
            closed = open_nodes.pop()
            node = _close(closed)
            if closed.anchor:
                anchors[closed.anchor] = node
        elif isinstance(event, events.ScalarEvent):
            node = _scalar(event)
            if event.anchor:
                anchors[event.anchor] = node
        elif isinstance(event, events.AliasEvent):
            if event.anchor not in anchors:
                why = f"*{event.anchor[:40]} stands for nothing that is complete before it"
                _refuse(
                    "bad_yaml", why, event.start_mark, f"write &{event.anchor[:40]} first, and not around it"
                )
            node = anchors[event.anchor]
        if node is not None:
            _add(node, open_nodes, found, event)
    return tuple(found)


def place(spot: Spot) -> str:
    return f"line {spot.line}, column {spot.column}"


def plain(spot: Spot) -> Any:
    """The value as plain Python: dict, list, str, int, float, bool, None."""
    match spot:
        case Mapping():
            return {key: plain(value) for key, value in spot.items.items()}
        case Sequence():
            return [plain(item) for item in spot.items]
        case Scalar():
            return spot.value
    raise AssertionError(spot)


def _events(text: str) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        if "'\\t'" in problem:
            _refuse("bad_yaml", "a tab stands where YAML wants spaces", mark, "indent with spaces")
        _refuse("bad_yaml", f"not YAML: {problem[:200]}", mark, "check indentation, quotes and brackets")
    except (ValueError, IndexError, AssertionError, AttributeError, TypeError, OverflowError) as error:
        # The parser meets some malformed escapes and directives with Python's own errors.
        raise Refused(
            "bad_yaml", "not YAML: it cannot be read", hint="check escapes and % directives"
        ) from error


def _refuse(code: str, what: str, mark: Any, hint: str) -> NoReturn:
    where = (
        f"line {mark.line + 1}, column {mark.column + 1}: "
        if mark is not None and hasattr(mark, "line")
        else ""
    )
    fields = {"line": mark.line + 1, "column": mark.column + 1} if where else {}
    raise Refused(code, where + what, hint=hint, **fields)


def _check_tag(event: Any) -> None:
    tag = str(event.ctag) if event.ctag is not None else ""
    if tag and tag != "!" and tag not in _PLAIN_TAGS:
        _refuse(
            "bad_yaml",
            f"the tag {tag[:60]} is not used in task files",
            event.start_mark,
            "write the value without it",
        )


def _scalar(event: Any) -> Scalar:
    _check_tag(event)
    text: str = event.value
    if _UNWRITABLE.search(text):
        _refuse("bad_yaml", "the text holds a NUL or half a character", event.start_mark, "leave it out")
    tag = str(event.ctag) if event.ctag is not None else ""
    typed = event.implicit[0] or (tag and tag != "!" and not tag.endswith(":str"))
    mark = event.start_mark
    return Scalar(
        value=_typed(text) if typed else text,
        text=text,
        line=mark.line + 1,
        column=mark.column + 1,
        nodes=1,
        characters=len(text),
    )


def _typed(text: str) -> str | int | float | bool | None:
    """YAML 1.2's core schema: `yes`, `on` and dates stay text; a number too long for its type does too."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return _BOOL[text.lower()]
    if _INT.fullmatch(text):
        return int(text, 0 if text[:2] in ("0x", "0o") else 10)
    if len(text) < 100 and _FLOAT.fullmatch(text):
        return float(
            text.replace(".inf", "inf")
            .replace(".Inf", "inf")
            .replace(".INF", "inf")
            .replace(".n", "n")
            .replace(".N", "n")
        )
    return text


def _add(node: Spot, open_nodes: list[_Open], found: list[Spot], event: Any) -> None:
    if not open_nodes:
        found.append(node)
        return
    parent = open_nodes[-1]
    if parent.mapping and len(parent.children) % 2 == 0:
        _check_key(node, parent, event)
    parent.children.append(node)
    parent.nodes += node.nodes
    parent.characters += node.characters
    if parent.nodes > MAX_EXPANDED_NODES or parent.characters > MAX_EXPANDED_CHARACTERS:
        _refuse(
            "too_big",
            "aliases expand to more than a task file may hold",
            event.start_mark,
            "write it out once",
        )


def _check_key(node: Spot, parent: _Open, event: Any) -> None:
    if not isinstance(node, Scalar):
        _refuse("bad_key", "a key must be text", event.start_mark, "write KEY: VALUE")


def _close(closed: _Open) -> Spot:
    at = {
        "line": closed.mark.line + 1,
        "column": closed.mark.column + 1,
        "nodes": closed.nodes,
        "characters": closed.characters,
    }
    if not closed.mapping:
        return Sequence(items=tuple(closed.children), **at)
    items: dict[str, Spot] = {}
    key_spots: dict[str, Scalar] = {}
    merged: list[Mapping] = []
    for key, value in zip(closed.children[::2], closed.children[1::2], strict=True):
        assert isinstance(key, Scalar)
        if key.text == "<<":
            merged.extend(_merged(value))
            continue
        if key.text in items:
            why = f"{key.text[:60]!r} is given twice, first in line {key_spots[key.text].line}"
            raise Refused(
                "duplicate_key", f"{place(key)}: {why}", hint="keep one", line=key.line, column=key.column
            )
        items[key.text], key_spots[key.text] = value, key
    for mapping in merged:  # the first one wins, and keys written here win over all
        for name, value in mapping.items.items():
            if items.setdefault(name, value) is value:
                key_spots.setdefault(name, mapping.key_spots[name])
    return Mapping(items=items, key_spots=key_spots, **at)


def _merged(value: Spot) -> list[Mapping]:
    parts = value.items if isinstance(value, Sequence) else (value,)
    for part in parts:
        if not isinstance(part, Mapping):
            raise Refused(
                "bad_yaml", f"{place(value)}: << merges mappings only", hint="write <<: *NAME of a mapping"
            )
    return [part for part in parts if isinstance(part, Mapping)]
