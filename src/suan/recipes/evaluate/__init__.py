"""evaluate: a model and held-out data in, a table of measured abilities with their confidence intervals out.

Modules: `questions` (a corpus becomes tasks for lm-eval), `definitions` (Chinese benchmarks whose data are
given, as YAML that `lm_eval run` reads too), `harness` (lm-eval, run task by task), `calibration`,
`intervals`, `written` (whether what the model writes has the form that was asked for), `report`. Nothing is
fetched: models and data are folders.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from suan.grid.job import Checkpoint, Resources, Task
from suan.recipes.runtime import arguments, command

OF_THE_CORPUS = ("held_out", "cloze", "next_couplet", "word_order")  # tasks made of its held-out text


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of evaluate."""

    documents: Annotated[
        int, Meta(ge=0, description="Documents or questions a task, drawn by seed; 0 for all there are.")
    ] = 120
    shots: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=64)], ...],
        Meta(description="Worked examples before each question; one run each."),
    ] = (0, 2)
    tasks: Annotated[
        tuple[str, ...],
        Meta(
            description="Names of tasks; none: those of the corpus, and every definition that has its data."
        ),
    ] = ()
    content_free: Annotated[
        str,
        Meta(description="Stands for a question's text when labels are calibrated; empty: they are not."),
    ] = "无"
    generations: Annotated[
        int, Meta(ge=0, description="Answers written to check their form; 0 for none.")
    ] = 48
    max_new_tokens: Annotated[int, Meta(ge=1, description="Longest answer, in tokens.")] = 96
    batch_rows: Annotated[int, Meta(ge=1, description="Requests in one forward pass.")] = 32
    confidence: Annotated[float, Meta(gt=0.5, lt=1, description="Of the intervals.")] = 0.95
    seed: Annotated[int, Meta(ge=0, description="Of distractors, of drawn questions and of sampling.")] = 1


def task(args: Args) -> Task:
    """One core for less than a minute with a small model; goes on after the tasks that were finished.

    An input `data` is a root of benchmark files and may hold definitions of its own. It stands in place of
    the corpus where `tasks` names nothing else and no answers are to be written.
    """
    of_corpus = args.generations or not args.tasks or not set(args.tasks).isdisjoint(OF_THE_CORPUS)
    asked_of = {"corpus": "dataset:corpus"} if of_corpus else {"data": "dataset:data"}
    return Task(
        name="evaluate",
        recipe="evaluate",
        run=command("evaluate"),
        args=arguments(args),
        inputs={"model": "model:model", **asked_of},
        outputs={"report": "report:report"},
        resources=(Resources(cpus=1),),
        checkpoint=Checkpoint(every_s=60),
        duration_s=45,
    )
