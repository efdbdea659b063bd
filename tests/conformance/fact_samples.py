"""Facts for the journals' tests: at random, and one of each class with every field filled."""

import enum
import types
import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

from suan.grid.fact import Fact

CLASSES: tuple[type, ...] = Fact.__args__
_SCALARS = {
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=20),
    bool: st.booleans(),
    type(None): st.none(),
}
_JSON = st.recursive(
    st.none() | st.booleans() | _SCALARS[int] | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def facts_of(kind: type) -> st.SearchStrategy[Any]:
    """Any instance of a struct, every field drawn by its declared type."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: _values(hints[name]) for name in kind.__struct_fields__})


def full_sample(hint: Any, name: str = "x") -> Any:
    """One value of the type with nothing left empty: each optional given, one element in each collection."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {"lines": [1, 2.5, None, "三"]}
    if hint in (int, float, str, bool):
        return {int: 7, float: 0.25, str: f"{name}-值", bool: True}[hint]
    if origin in (typing.Union, types.UnionType):
        return full_sample(next(choice for choice in arguments if choice is not type(None)), name)
    if origin is tuple:
        return (full_sample(arguments[0], name),)
    if origin is dict:
        return {7 if arguments[0] is int else "k": full_sample(arguments[1], name)}
    if issubclass(hint, enum.Enum):
        return next(iter(hint))
    assert issubclass(hint, msgspec.Struct), f"no sample for {hint}"
    hints = typing.get_type_hints(hint)
    return hint(**{field: full_sample(hints[field], field) for field in hint.__struct_fields__})


def _values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _JSON
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_values(choice) for choice in arguments])
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        keys = st.integers(1, 99) if arguments[0] is int else st.text(max_size=8)
        return st.dictionaries(keys, _values(arguments[1]), max_size=2)
    if issubclass(hint, enum.Enum):
        return st.sampled_from(list(hint))
    return facts_of(hint)
