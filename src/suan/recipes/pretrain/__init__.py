"""pretrain: a corpus and a tokenizer in, a decoder trained from random weights (or those of a `model`) out.

`args` is what can be said, `layout` the ranks, `model` the decoder and its loss, `trainer` one step, `loop`
all of them, `speed` how fast. Knows dense decoders and mixtures of experts; runs as one process or as many.
"""

from suan.grid.job import Checkpoint, Resources, Task
from suan.recipes.pretrain.args import Args, active_parameters
from suan.recipes.runtime import arguments, command

__all__ = ["Args", "task"]

# What one x86 core did in float32 with a model of a few million parameters; for the estimate before
# anything runs.
FLOPS_PER_CORE = 40e9


def task(args: Args) -> Task:
    """Cores or accelerators as the task file says; resumes from its checkpoints."""
    tokens = args.steps * args.batch_rows * args.seq_len
    return Task(
        name="pretrain",
        recipe="pretrain",
        run=command("pretrain"),
        args=arguments(args),
        inputs={"corpus": "dataset:corpus", "tokenizer": "tokenizer:tokenizer"},
        outputs={"model": "model:model"},
        resources=(Resources(cpus=args.cpus),),
        checkpoint=Checkpoint(every_s=max(1, round(args.checkpoint_every_s))),
        duration_s=20 + round(6 * active_parameters(args) * tokens / (FLOPS_PER_CORE * args.cpus)),
    )
