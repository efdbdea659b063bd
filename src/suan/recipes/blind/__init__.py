"""blind: can people tell what a model wrote from what people wrote?

Two steps. `prepare`: a model and held-out documents in, a sheet of shuffled items for judges and, apart from
it, the answer key out. `score`: the key and the judges' files in, statistics out. Modules: `sheet` (items and
files), `statistics` (what the answers say). The texts are taken as the model gives them: none is picked.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from suan.grid.job import Resources, Task
from suan.recipes.runtime import arguments, command


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of blind."""

    step: Annotated[
        Literal["prepare", "score"], Meta(description="Make the sheet and the key, or judge the answers.")
    ] = "prepare"
    items: Annotated[
        int, Meta(ge=4, description="Texts on the sheet, half of them by the model; made even.")
    ] = 40
    max_new_tokens: Annotated[int, Meta(ge=1, description="Longest text of the model, in tokens.")] = 96
    margin: Annotated[
        float,
        Meta(
            gt=0, lt=0.5, description="People cannot tell if their accuracy is shown to be this near to 0.5."
        ),
    ] = 0.1
    confidence: Annotated[float, Meta(gt=0.5, lt=1, description="Of the intervals.")] = 0.95
    batch_rows: Annotated[int, Meta(ge=1, description="Texts written at once.")] = 32
    seed: Annotated[int, Meta(ge=0, description="Of which prompts, whose text, and the order.")] = 1


def task(args: Args) -> Task:
    """One core for seconds with a small model."""
    prepare = args.step == "prepare"
    return Task(
        name="blind",
        recipe="blind",
        run=command("blind"),
        args=arguments(args),
        inputs={"model": "model:model", "corpus": "dataset:corpus"}
        if prepare
        else {"key": "report:blind-key", "answers": "dataset:blind-answers"},
        outputs={"sheet": "report:blind-sheet", "key": "report:blind-key"}
        if prepare
        else {"report": "report:blind"},
        resources=(Resources(cpus=1),),
        duration_s=30,
    )
