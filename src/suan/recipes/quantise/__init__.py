"""quantise: a model folder and held-out text in, a smaller model out, with what it lost and won measured.

Modules: `convert` (torchao into safetensors; GGUF for llama.cpp), `measure` (both models on the same text in
the same run). The conversions are libraries'; what is ours is that no number is taken on trust.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from suan.grid.job import Checkpoint, Resources, Task
from suan.recipes.runtime import arguments, command


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of quantise."""

    method: Annotated[
        Literal["int8", "int4", "gguf-q8_0", "gguf-f16"],
        Meta(
            description="int8 and int4: weights only, by torchao, for transformers and vLLM; int4 saves "
            "memory on accelerators alone. gguf: for llama.cpp."
        ),
    ] = "int8"
    group_size: Annotated[int, Meta(ge=16, description="Weights that share a scale; int4 alone.")] = 32
    documents: Annotated[int, Meta(ge=1, description="Held-out documents to compare on, at most.")] = 64
    max_tokens: Annotated[int, Meta(ge=8, description="Of a document, at most.")] = 512
    batch_rows: Annotated[int, Meta(ge=1, description="Documents in one forward pass.")] = 8
    speed_tokens: Annotated[int, Meta(ge=1, description="Tokens written to measure the pace.")] = 64


def task(args: Args) -> Task:
    """One core for less than a minute with a small model; goes on with the comparison where it was."""
    return Task(
        name="quantise",
        recipe="quantise",
        run=command("quantise"),
        args=arguments(args),
        inputs={"model": "model:model", "corpus": "dataset:corpus"},
        outputs={"model": "model:quantised"},
        resources=(Resources(cpus=1),),
        checkpoint=Checkpoint(every_s=60),
        duration_s=60,
    )
