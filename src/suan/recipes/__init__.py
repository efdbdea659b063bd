"""The stages of a model's life. Each module has `Args`, `task(args)` and `main()`.

Knows which stages there are and how a `with:` block becomes a task. `task` is pure and imports `suan.grid`
alone; whatever is heavy is imported inside `main`, which runs at a site.
"""

import difflib
import importlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from suan.grid.error import Refused
from suan.grid.job import Task

RECIPES: dict[str, str] = {
    "corpus": "suan.recipes.corpus",
    "annotate": "suan.recipes.annotate",
    "tokenizer": "suan.recipes.tokenizer",
    "pretrain": "suan.recipes.pretrain",
    "sft": "suan.recipes.sft",
    "reward": "suan.recipes.reward",
    "dpo": "suan.recipes.dpo",
    "rlhf": "suan.recipes.rlhf",
    "evaluate": "suan.recipes.evaluate",
    "leaderboard": "suan.recipes.leaderboard",
    "blind": "suan.recipes.blind",
    "quantise": "suan.recipes.quantise",
    "index": "suan.recipes.index",
    "serve": "suan.recipes.serve",
}

_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<field>[^`]*)`")
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`")


def args_type(stage: str) -> type[msgspec.Struct]:
    """The stage's `Args`: its fields, limits and descriptions make flags, schema and form.

    Raises: Refused `unknown_recipe`.
    """
    if stage not in RECIPES:
        near = difflib.get_close_matches(stage, RECIPES, n=1, cutoff=0.0)[0]
        raise Refused(
            "unknown_recipe",
            f"no recipe is called {stage!r}",
            hint=f"did you mean {near}? there are {', '.join(RECIPES)}",
        )
    return importlib.import_module(RECIPES[stage]).Args  # type: ignore[no-any-return]


def recipe_args(stage: str, values: Mapping[str, Any], *, strict: bool = True) -> msgspec.Struct:
    """`values` as the stage's `Args`. With `strict=False` numbers may be spelt as text, as on a command line.

    Raises: Refused `unknown_recipe`, `bad_recipe_args` (field names the path of what is wrong).
    """
    kind = args_type(stage)
    try:
        return msgspec.convert(dict(values), kind, strict=strict)
    except msgspec.ValidationError as error:
        raise _refusal(stage, kind, str(error)) from None


def recipe_task(stage: str, args_dict: Mapping[str, Any]) -> Task:
    """The task that the stage writes for these arguments; a task file adds artifacts, resources and terms.

    Raises: Refused `unknown_recipe`, `bad_recipe_args`.
    """
    args = recipe_args(stage, args_dict)
    task: Task = importlib.import_module(RECIPES[stage]).task(args)
    return task


def _refusal(stage: str, kind: type[msgspec.Struct], text: str) -> Refused:
    fields = [field.name for field in msgspec.structs.fields(kind)]
    path = match["path"] if (match := _PATH.search(text)) else ""
    what = _PATH.sub("", text)
    if match := _UNKNOWN_FIELD.search(text):
        path += "." + match["field"]
        near = difflib.get_close_matches(match["field"], fields, n=1, cutoff=0.0)
        what, hint = (
            f"{match['field']!r} is no argument of {stage}",
            f"did you mean {near[0]}?" if near else "",
        )
    else:
        hint = f"{stage} takes {', '.join(fields)}"
    where = f"with{path}"
    return Refused("bad_recipe_args", f"{where}: {what}", hint=hint, path=where, recipe=stage)
