"""What the stages that TRL trains share: their common arguments, checkpoints, resuming, progress.

Knows one TRL trainer at a time and the site it runs at. A checkpoint is the trainer's own, and counts only
once it is whole and was made from the same data and settings. Does not know what is trained or why.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Checkpoint, Resources, Task
from suan.recipes.runtime import Context, arguments, command, write_json

REPORT_EVERY_S = 2.0
WHOLE = "whole.json"  # written beside a checkpoint after its last byte
READ_BYTES = 1 << 28  # a larger input is known by its name and size
FREE = ("checkpoint_every_s", "checkpoint_every_steps", "cpus", "sharding")  # these change nothing learnt


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments that every stage trained by TRL has."""

    steps: Annotated[int, Meta(ge=1, description="Optimiser steps.")] = 100
    batch_rows: Annotated[int, Meta(ge=1, description="Rows a step, over all ranks together.")] = 16
    learning_rate: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 1e-4
    schedule: Annotated[
        Literal["cosine", "linear", "constant_with_warmup"],
        Meta(description="Of the learning rate after warm-up."),
    ] = "cosine"
    warmup_ratio: Annotated[float, Meta(ge=0, lt=1, description="Part of the steps that warm up.")] = 0.05
    weight_decay: Annotated[float, Meta(ge=0, description="Of matrices; norms have none.")] = 0.0
    clip_norm: Annotated[float, Meta(gt=0, description="Largest norm of the gradient.")] = 1.0
    max_length: Annotated[int, Meta(ge=8, description="Longest row in tokens; more is cut off.")] = 256
    lora_rank: Annotated[
        int, Meta(ge=0, description="Rank of LoRA adapters on every linear layer; 0 trains all weights.")
    ] = 0
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Meta(description="Of matrix products; weights and moments stay float32."),
    ] = "float32"
    eval_every: Annotated[int, Meta(ge=1, description="Steps between looks at held-out rows.")] = 50
    eval_rows: Annotated[int, Meta(ge=1, description="Held-out rows looked at, at most.")] = 64
    checkpoint_every_s: Annotated[float, Meta(gt=0, description="Seconds between checkpoints.")] = 60.0
    checkpoint_every_steps: Annotated[
        int, Meta(ge=0, description="Steps between checkpoints; 0: by time alone.")
    ] = 0
    sharding: Annotated[
        Literal["ddp", "fsdp"],
        Meta(description="With several ranks: copies of the model, or FSDP2 shards (without checkpoints)."),
    ] = "ddp"
    cpus: Annotated[int, Meta(ge=1, description="CPU cores to ask for when no accelerator is.")] = 2
    seed: Annotated[int, Meta(ge=0, description="Of new weights, order and sampling.")] = 1


def training_task(
    stage: str, args: Training, inputs: dict[str, str], outputs: dict[str, str], duration_s: int
) -> Task:
    """The task of a stage that TRL trains; `duration_s` is for a model of a few million weights."""
    return Task(
        name=stage,
        recipe=stage,
        run=command(stage),
        args=arguments(args),
        inputs=inputs,
        outputs=outputs,
        resources=(Resources(cpus=args.cpus),),
        checkpoint=Checkpoint(every_s=max(1, round(args.checkpoint_every_s))),
        duration_s=duration_s,
    )


def prepare(context: Context[Any]) -> str:
    """Sets the process up before anything imports a trainer; the device to train on.

    Raises: Refused `bad_recipe_args`: ranks that do not divide the rows of a step, adapters in shards.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(context.scratch / "hub")}
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    # Threads that wait by spinning take the cores from whoever they wait for, when a node is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if context.args.batch_rows % context.world_size:
        raise Refused(
            "bad_recipe_args",
            f"{context.world_size} ranks do not divide batch_rows {context.args.batch_rows}",
            hint="change one of the two",
            recipe=context.stage,
        )
    if context.args.lora_rank and sharded(context):
        raise Refused(
            "bad_recipe_args",
            "adapters cannot be merged in shards",
            hint="set sharding=ddp or lora_rank=0",
            recipe=context.stage,
        )
    import datasets
    import torch
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(context.threads)
    if context.world_size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cuda:nccl,cpu:gloo" if cuda else "gloo")
    transformers.set_seed(context.args.seed)
    return "cuda" if cuda else "cpu"


def looks(args: Training) -> dict[str, Any]:
    """How a trainer looks at held-out rows on the way."""
    return {
        "eval_strategy": "steps",
        "eval_steps": args.eval_every,
        "per_device_eval_batch_size": args.batch_rows,
    }


def read_rows(folder: Path, name: str, keys: tuple[str, ...], limit: int = 0) -> list[dict[str, Any]]:
    """Rows of a JSONL file of a data set, the first `limit` when that is not 0.

    Raises: Refused `no_dataset` when there is no such file, `bad_dataset` when a row lacks one of `keys`.
    """
    file = folder / f"{name}.jsonl"
    if not file.exists():
        raise Refused("no_dataset", f"{folder} has no {file.name}", hint="see docs/tutorial/fine-tuning.md")
    rows: list[dict[str, Any]] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            if missing := [key for key in keys if key not in row]:
                raise Refused(
                    "bad_dataset",
                    f"{file}:{number} has no {', '.join(missing)}",
                    hint=f"each row needs {', '.join(keys)}",
                )
            rows.append(row)
            if len(rows) == limit:
                break
    if not rows:
        raise Refused("no_dataset", f"{file} is empty", hint="see docs/tutorial/fine-tuning.md")
    return rows


def dataset(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> Any:
    """These columns of the rows as TRL reads them."""
    from datasets import Dataset

    return Dataset.from_list([{key: row[key] for key in keys} for row in rows])


def sharded(context: Context[Any]) -> bool:
    return context.world_size > 1 and context.args.sharding == "fsdp"


def load_model(context: Context[Any], folder: Path, kind: str = "AutoModelForCausalLM", **keys: Any) -> Any:
    """The model of a folder by one of transformers' auto classes; as FSDP2 shards when that is asked for."""
    import torch
    import transformers

    if sharded(context):
        from transformers.distributed import DistributedConfig

        keys["distributed_config"] = DistributedConfig(fsdp_size=context.world_size)
    return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, **keys)


def trainer_args(context: Context[Any], kind: Any, **own: Any) -> Any:
    """A TRL configuration of class `kind` from the common arguments and the stage's own."""
    import torch

    args, cuda = context.args, torch.cuda.is_available()
    return kind(
        output_dir=str(_folder(context)),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_rows // context.world_size,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.schedule,
        warmup_steps=round(args.warmup_ratio * args.steps),
        weight_decay=args.weight_decay,
        max_grad_norm=args.clip_norm,
        logging_steps=1,
        save_strategy="no",  # `Keeping` says when
        save_total_limit=2,  # one that is whole while the next is written
        report_to=[],
        use_cpu=not cuda,
        bf16=args.dtype == "bfloat16",
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=args.seed,
        **own,
    )


def trained(trainer: Any) -> Any:
    """The model of a trainer, out of what spreads it over ranks."""
    return trainer.accelerator.unwrap_model(trainer.model)


def lora(args: Training, task_type: str) -> Any:
    """The adapters to train, or None when all weights are."""
    if not args.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=args.lora_rank,
        lora_alpha=2 * args.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type=task_type,
    )


def _folder(context: Context[Any]) -> Path:
    return context.checkpoint or context.scratch / "trainer"


def fingerprint(context: Context[Any]) -> str:
    """Names the arguments and inputs that decide what is learnt."""
    settings = {key: value for key, value in arguments(context.args).items() if key not in FREE}
    made = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for name, folder in sorted(context.inputs.items()):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            made.update(f"{name}/{file.relative_to(folder)}:{file.stat().st_size}".encode())
            if file.suffix != ".safetensors" and file.stat().st_size < READ_BYTES:
                made.update(file.read_bytes())
    return made.hexdigest()


def newest(folder: Path, mark: str) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint with this fingerprint and the stage's numbers at that step, or None."""
    found = []
    for file in folder.glob(f"checkpoint-*/{WHOLE}"):
        note = json.loads(file.read_text("utf-8"))
        if note["fingerprint"] == mark:
            found.append((note["step"], file.parent, note["numbers"]))
    if not found:
        return None
    _, checkpoint, numbers = max(found, key=lambda entry: entry[0])
    return checkpoint, numbers


def callback(kind: type, *values: Any) -> Any:
    """An instance of `kind` that a trainer accepts: transformers is not imported at this module's top."""
    from transformers import TrainerCallback

    return type(kind.__name__, (kind, TrainerCallback), {})(*values)


class Reporting:
    """Progress: the mean since the last report of what the trainer logs, by the names in `shown`.

    The loss on held-out rows before the first step is kept in `numbers`.
    """

    def __init__(self, context: Context[Any], shown: dict[str, str], numbers: dict[str, Any]) -> None:
        self._context, self._shown, self._numbers = context, shown, numbers
        self._sums: dict[str, list[float]] = {}
        self._began_s = self._reported_s = 0.0
        self._tokens: float | None = None
        self._counted = 0.0  # tokens since this run began, resumed or not

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        phase = "resumed" if state.global_step else "train"
        self._began_s = self._reported_s = time.monotonic()
        self._tokens = None if state.global_step else 0.0
        self._context.progress.write(step=state.global_step, total=args.max_steps, phase=phase)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        for key, name in self._shown.items():
            if isinstance(logs.get(key), int | float):
                self._sums.setdefault(name, []).append(float(logs[key]))
        if state.global_step == 0 and "eval_loss" in logs:
            self._numbers["first_val_loss"] = logs["eval_loss"]
        now_s, last = time.monotonic(), state.global_step >= args.max_steps
        if not self._sums or not (last or now_s - self._reported_s > REPORT_EVERY_S):
            return
        numbers = {name: sum(values) / len(values) for name, values in self._sums.items()}
        tokens = logs.get("num_tokens")
        if tokens is not None:
            if self._tokens is not None:
                numbers["tokens_per_s"] = round((tokens - self._tokens) / max(1e-9, now_s - self._reported_s))
                self._counted += tokens - self._tokens
                self._numbers["tokens_per_s"] = self._counted / max(1e-9, now_s - self._began_s)
            self._tokens = tokens
        self._context.progress.write(step=state.global_step, total=args.max_steps, phase="train", **numbers)
        self._sums.clear()
        self._reported_s = now_s


class Keeping:
    """Checkpoints by time or steps and when the site asks the run to end; on all ranks at the same step."""

    def __init__(self, context: Context[Any], mark: str, numbers: dict[str, Any]) -> None:
        self._context, self._mark, self._numbers = context, mark, numbers
        self._saved_s = time.monotonic()
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            return
        every = self._context.args.checkpoint_every_steps
        due = time.monotonic() - self._saved_s >= self._context.args.checkpoint_every_s
        due = due or bool(every and state.global_step % every == 0)
        stop, due = _agreed(self._context, self._context.stopping, due)
        if self._context.checkpoint and not sharded(self._context):
            control.should_save = due or stop
        if stop:
            control.should_training_stop = self.stopped = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved_s = time.monotonic()
        if self._context.rank == 0:
            note = {"step": state.global_step, "fingerprint": self._mark, "numbers": self._numbers}
            write_json(_folder(self._context) / f"checkpoint-{state.global_step}" / WHOLE, note)


def _agreed(context: Context[Any], *flags: bool) -> list[bool]:
    """Each flag, true when it is on any rank."""
    if context.world_size == 1:
        return list(flags)
    import torch

    votes = torch.tensor([int(flag) for flag in flags])
    torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
    return [bool(vote) for vote in votes]


class Run:
    """A trainer at a site: `train` goes on from the newest checkpoint, `numbers` is what a stage remembers
    across a kill.
    """

    def __init__(self, context: Context[Any], shown: dict[str, str]) -> None:
        self.numbers: dict[str, Any] = {}
        mark = fingerprint(context)
        self._keeping = callback(Keeping, context, mark, self.numbers)
        self._callbacks = [callback(Reporting, context, shown, self.numbers), self._keeping]
        self._resume: str | None = None
        found = newest(_folder(context), mark) if context.checkpoint and not sharded(context) else None
        if found:
            self._resume = str(found[0])
            self.numbers |= found[1]

    def watch(self, trainer: Any) -> Any:
        """The trainer, reporting here instead of printing."""
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        # Not `evaluate()` before `train()`: the trainer would prepare the model for evaluation alone, and on
        # several ranks train what is neither averaged nor wholly updated, without a word.
        trainer.args.eval_on_start = trainer.args.eval_strategy != "no" and self._resume is None
        for one in self._callbacks:
            trainer.add_callback(one)
        return trainer

    def pace(self) -> dict[str, float]:
        """Tokens a second since this run began, by `tokens_per_s`; nothing where the trainer counts none."""
        return {name: pace for name, pace in self.numbers.items() if name == "tokens_per_s"}

    def train(self, trainer: Any) -> bool:
        """False when the site asked to stop first; the checkpoint to go on from is then whole."""
        trainer.train(resume_from_checkpoint=self._resume)
        return not self._keeping.stopped
