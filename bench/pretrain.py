"""What does recipe pretrain cost beside a bare loop of transformers and torch on the same model and rows?

    bench/pretrain.py [--steps 24] [--json]

The poet's model on one CPU core. The loops take turns of a few steps in one process, so that whatever else
the machine does hits all; CPU-seconds are compared. `plain` is the recipe with the loss of the bare loop:
what is left is the recipe's own cost (data, the watch over the loss, settings of the step). Checkpoints and
validations are not in it. Limit: 2 %. The default, `chunked`, is another kernel and shown beside.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import Result, show

ROOT = Path(__file__).parents[1]
LIMIT, TURN = 1.02, 3


def make_inputs(folder: Path) -> list[str]:
    """A corpus of poems and a tokenizer, as options of a stage."""
    import gzip

    from suan.recipes import tokenizer

    corpus, made = folder / "corpus", folder / "tokenizer"
    corpus.mkdir()
    poems = ROOT / "examples" / "data" / "tang-poems" / "tang_regulated.jsonl.gz"
    with gzip.open(poems, "rt", encoding="utf-8") as lines:
        texts = ["".join(json.loads(line)["lines"]) for line in itertools.islice(lines, 6000)]
    for name, part in (("train-00000.jsonl", texts[200:]), ("valid.jsonl", texts[:200])):
        rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part)
        (corpus / name).write_text(rows, encoding="utf-8")
    tokenizer.train(corpus, tokenizer.Args()).save_pretrained(made)
    return [f"--input=corpus={corpus}", f"--input=tokenizer={made}", f"--output={folder / 'model'}"]


def recipe(inputs: list[str], loss: str) -> tuple[Any, Callable[[], None]]:
    """The recipe's trainer, and one step of it."""
    from suan.recipes.pretrain.trainer import Trainer
    from suan.recipes.runtime import open_context

    trainer = Trainer(open_context("pretrain", [*inputs, f"--set=loss={loss}"]))
    return trainer, lambda: trainer.step() and None


def bare(trainer: Any, rows: list[Any]) -> Callable[[], None]:
    """One step of the shortest loop that learns the same: forward, backward, clip, AdamW."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(trainer.model.config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=trainer.args.learning_rate, betas=(0.9, 0.95))
    batches = itertools.cycle(rows)

    def step() -> None:
        tokens = next(batches)
        logits = model(input_ids=tokens[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import torch

    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(Path(folder))
        trainer, plain = recipe(inputs, "plain")
        _, chunked = recipe(inputs, "chunked")
        torch.set_num_threads(1)
        rows = [
            torch.from_numpy(trainer.rows.batch(step, trainer.args.batch_rows)).long() for step in range(8)
        ]
        loops = {"bare": bare(trainer, rows), "plain": plain, "chunked": chunked}
        spent_s = dict.fromkeys(loops, 0.0)
        for turn in range(1 + -(-options.steps // TURN)):
            for name, step in loops.items():
                started_s = time.process_time()
                for _ in range(TURN):
                    step()
                if turn:  # the first is for warming up
                    spent_s[name] += time.process_time() - started_s
    tokens = -(-options.steps // TURN) * TURN * trainer.args.batch_rows * trainer.args.seq_len
    pace = {name: tokens / seconds for name, seconds in spent_s.items()}
    beside = f"a bare loop's {pace['bare']:,.0f} tokens a CPU-second"
    ratio = spent_s["plain"] / spent_s["bare"]
    results = [
        Result("CPU time of a step, plain loss", ratio, "of bare", LIMIT, "the issue's 2 %", ratio, beside),
        Result(
            "tokens a CPU-second, chunked loss (the default)",
            pace["chunked"],
            "tokens/s",
            pace["bare"] / LIMIT,
            "the same 2 %",
            pace["chunked"] / pace["bare"],
            beside,
            higher_is_better=True,
        ),
    ]
    show("pretrain", results)


if __name__ == "__main__":
    sys.exit(main())
