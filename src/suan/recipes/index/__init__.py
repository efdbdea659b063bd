"""index: documents in, an index to search by meaning and by words out, for what happened after training.

Modules: `passages` (documents cut into passages and sentences), `store` (LanceDB: vectors and Chinese n-grams
in one search), `answers` (passages become a prompt, or the sentence that answers). The recipe `serve` puts an
index in front of a chat model.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from suan.grid.job import Checkpoint, Resources, Task
from suan.recipes.runtime import arguments, command


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of index."""

    passage_characters: Annotated[
        int, Meta(ge=40, description="Longest passage; the embedder reads 512 tokens.")
    ] = 300
    overlap_sentences: Annotated[
        int, Meta(ge=0, description="Sentences that a passage repeats from the one before.")
    ] = 1
    batch_passages: Annotated[int, Meta(ge=1, description="Passages embedded and written at once.")] = 64


def task(args: Args) -> Task:
    """One core; goes on after the passages that are in the index already."""
    return Task(
        name="index",
        recipe="index",
        run=command("index"),
        args=arguments(args),
        inputs={"documents": "dataset:documents"},
        outputs={"index": "dataset:index"},
        resources=(Resources(cpus=1),),
        checkpoint=Checkpoint(every_s=30),
        duration_s=60,
    )
