"""What a recipe writes before anything runs: tasks, made without one heavy import; and what it refuses."""

import subprocess
import sys

import msgspec
import pytest

from suan.grid.error import Refused
from suan.recipes import RECIPES, args_type, recipe_task

HEAVY = ("torch", "transformers", "tokenizers", "polars", "numpy", "lm_eval", "opencc", "rensa", "datasets")


@pytest.mark.parametrize("stage", RECIPES)
def test_a_task_is_whole_and_names_its_recipe(stage: str) -> None:
    task = recipe_task(stage, {})
    assert task.name == task.recipe == stage
    assert task.run == f'"${{SUAN_PYTHON:-python3}}" -m suan.recipes.{stage}'
    assert msgspec.convert(task.args, args_type(stage)) == args_type(stage)()
    assert msgspec.json.decode(msgspec.json.encode(task), type=type(task)) == task


def test_only_a_service_has_replicas_and_long_stages_checkpoint() -> None:
    assert [stage for stage in RECIPES if recipe_task(stage, {}).replicas] == ["serve"]
    assert [stage for stage in RECIPES if recipe_task(stage, {}).checkpoint] == [
        "pretrain",
        "sft",
        "reward",
        "dpo",
        "rlhf",
        "evaluate",
        "quantise",
        "index",
    ]


def test_more_steps_are_estimated_to_take_longer() -> None:
    short, long = (recipe_task("pretrain", {"steps": steps}).duration_s for steps in (100, 1000))
    assert short and long and 5 * short < 10 * long and long > 2 * short


def test_an_examination_needs_no_corpus() -> None:
    exam = {"tasks": ["triage"], "generations": 0}
    assert set(recipe_task("evaluate", exam).inputs) == {"model", "data"}
    for asked in ({"tasks": ["triage", "cloze"]}, {"generations": 4}, {"tasks": []}):
        assert set(recipe_task("evaluate", exam | asked).inputs) == {"model", "corpus"}


def test_writing_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from suan.recipes import RECIPES, recipe_task; [recipe_task(s, {}) for s in RECIPES];"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("stage", RECIPES)
def test_every_argument_is_described(stage: str) -> None:
    schema = msgspec.json.schema(args_type(stage))["$defs"]["Args"]
    assert schema["properties"] and all(field.get("description") for field in schema["properties"].values())


@pytest.mark.parametrize(
    ("stage", "args", "code", "hint"),
    [
        ("pretrian", {}, "unknown_recipe", "pretrain"),
        ("pretrain", {"layer": 2}, "bad_recipe_args", "layers"),
        ("corpus", {"near_treshold": 0.5}, "bad_recipe_args", "near_threshold"),
        ("pretrain", {"steps": -1}, "bad_recipe_args", ">= 1"),
        ("pretrain", {"steps": "many"}, "bad_recipe_args", "with.steps"),
        ("pretrain", {"family": "gpt9"}, "bad_recipe_args", "with.family"),
        ("corpus", {"where": {"form": 3}}, "bad_recipe_args", "with.where"),
    ],
)
def test_wrong_arguments_are_refused_with_the_nearest_name(
    stage: str, args: dict, code: str, hint: str
) -> None:
    with pytest.raises(Refused) as refused:
        recipe_task(stage, args)
    assert refused.value.code == code
    assert hint in str(refused.value)
