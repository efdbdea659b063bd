"""What every stage with a trainer of TRL does, from inputs to a model folder: load, train, measure, export.

Does not know what is learnt: the stage brings its trainer and reads its results.
"""

import time
from collections.abc import Callable
from typing import Any

from suan.recipes.runtime import EXIT_STOPPED, Context
from suan.recipes.trl_export import describe, write_model
from suan.recipes.trl_run import Run, prepare, trained

Numbers = dict[str, float]


def train_stage(
    context: Context[Any],
    make_trainer: Callable[[Context[Any], Any], Any],
    read_results: Callable[[Run, Any], Numbers],
    *,
    shown: dict[str, str],
    about: str,
    measure: Callable[[Context[Any], str], Numbers] | None = None,
) -> int:
    """Runs the stage; every rank calls it. Returns its exit code.

    `make_trainer` gets the tokenizer of the input `model`, `read_results` the run and its trainer at the end.
    `measure` looks at the written model, on the device named, on rank 0 alone. `shown` are the numbers to
    report on the way, `about` is the model card's first sentence.
    """
    started_s = time.monotonic()
    device = prepare(context)
    from transformers import AutoTokenizer

    context.progress.write(phase="load")
    run = Run(context, shown)
    tokenizer = AutoTokenizer.from_pretrained(context.input("model"))
    trainer = run.watch(make_trainer(context, tokenizer))
    if not run.train(trainer):
        return EXIT_STOPPED
    results = read_results(run, trainer)
    write_model(context, trained(trainer), tokenizer)
    if context.rank == 0:
        if measure is not None:
            results |= measure(context, device)
        describe(context, about, results)
        context.metrics(**results, **run.pace(), seconds=time.monotonic() - started_s)
    return 0
