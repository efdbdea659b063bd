"""A model that TRL trained, as a model folder: plain weights, tokenizer, card, manifest.

Knows how to merge adapters (kept beside, in `adapter/`). Does not know what was trained.
"""

from typing import Any

from suan.recipes import model_folder
from suan.recipes.runtime import Context
from suan.recipes.trl_run import sharded

PACKAGES = (*model_folder.PACKAGES, "trl", "peft", "datasets")


def write_model(context: Context[Any], model: Any, tokenizer: Any) -> None:
    """Writes weights and tokenizer to the output `model`. Every rank calls it."""
    folder, first = context.output("model"), context.rank == 0
    if context.args.lora_rank and first:
        model.save_pretrained(folder / "adapter")
        model = model.merge_and_unload()
    model.config.use_cache = True
    if first or sharded(context):  # shards are gathered on the way
        model.save_pretrained(folder, is_main_process=first)
    if first:
        tokenizer.save_pretrained(folder)


def describe(context: Context[Any], about: str, results: dict[str, float]) -> None:
    """Writes card and manifest beside the model; `about` is the card's first sentence."""
    model_folder.describe(
        context.output("model"),
        recipe=context.stage,
        args=context.args,
        inputs=context.inputs,
        results=results,
        about=about,
        packages=PACKAGES,
    )
