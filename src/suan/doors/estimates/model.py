"""What somebody calls a model, as a shape: a transformers config.json, a folder with one, or a few numbers.

Knows files and spellings. Does not know what shapes mean.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from suan.doors.estimates.tables import SHAPE, check_numbers
from suan.grid.error import Refused

MAX_CONFIG_BYTES = 1 << 20
# Far beyond any model, and small enough to search.
MOST = {"layers": 10_000, "hidden": 10_000_000, "heads": 100_000, "experts": 100_000, "vocab": 100_000_000}
_HINT = (
    "a config.json of transformers, a folder with one, or numbers: layers=32,hidden=4096,heads=32,vocab=32000"
)


class Model(NamedTuple):
    name: str
    shapes: Any  # estimate.cases.Shapes of one
    source: str


def model_called(text: str) -> Model:
    """The model that `text` names.

    Raises: Refused `no_such_model`, `bad_model`, `bad_number`.
    """
    if "=" in text and not Path(text).exists():
        return Model("model", shape_of_numbers(text), "numbers")
    path = Path(text)
    path = path / "config.json" if path.is_dir() else path
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise Refused("bad_model", f"{path} is too large to be a config.json", hint=_HINT)
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Refused("no_such_model", f"{text!r} is no model: {error.strerror}", hint=_HINT) from error
    except ValueError as error:
        raise Refused("bad_model", f"{path} is no JSON: {error}", hint=_HINT) from error
    name = config.get("_name_or_path") if isinstance(config, dict) else ""
    folder_or_file = path.absolute().parent.name if path.name == "config.json" else path.stem
    return Model(name or folder_or_file, shape_in(config), str(path))


def shape_in(config: object) -> Any:
    """The shape a config describes.

    Raises: Refused `bad_model`.
    """
    from suan.estimate.config import shape_of_config

    if not isinstance(config, Mapping):
        raise Refused("bad_model", "a model's config is a JSON object", hint=_HINT, status=422)
    try:
        return _sane(shape_of_config(dict(config)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"the config is not understood: {type(error).__name__}: {str(error)[:200]}"
        raise Refused("bad_model", what, hint=_HINT, status=422) from error


def _sane(shapes: Any) -> Any:
    """The shape, which a search can take.

    Raises: Refused `bad_model`.
    """
    for name, most in MOST.items():
        value = int(getattr(shapes, name)[0])
        if value > most:
            raise Refused(
                "bad_model", f"{name} is {value:,}; at most {most:,}", hint=_HINT, status=422, path=name
            )
    return shapes


def shape_of_numbers(text: str) -> Any:
    """The shape that `layers=32,hidden=4096,…` describes; names are those of the tables' columns.

    Raises: Refused `bad_model`, `bad_number`.
    """
    from suan.estimate.columns import read_rows

    columns: dict[str, list[str]] = {}
    for pair in text.replace(",", " ").split():
        name, _, value = pair.partition("=")
        if name not in SHAPE:
            raise Refused(
                "bad_model",
                f"{name!r} is no number of a shape",
                hint=f"known: {', '.join(SHAPE)}",
                status=422,
            )
        columns[name] = [value]
    if not {"params_b", "layers"} & columns.keys():
        raise Refused("bad_model", "a shape needs layers and hidden, or params_b", hint=_HINT, status=422)
    check_numbers({**columns, "accel": ["A100"]}, SHAPE, where="--model")
    return _sane(read_rows({**columns, "accel": ["A100"], "n_accel": ["1"]}).cases.shapes)
