"""Runs of pretraining on the ranks of one process group, one layout after another: starting Python and torch
for each would take ten times as long. `torchrun … pretrain_ranks.py PLANS.json`.

A plan has a `name`, `args` and `inputs`, and may have `checkpoint` (a folder), `until` (a step), `broken_at`
(a step whose loss is no number) and `export`. What was seen goes to `NAME.json` beside PLANS.
"""

import json
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from suan.recipes.checkpoint import Checkpoints
from suan.recipes.pretrain import loop
from suan.recipes.pretrain.trainer import Trainer
from suan.recipes.runtime import open_context


def one(plan: dict[str, Any], beside: Path) -> None:
    os.environ["SUAN_ARGS"] = json.dumps(plan["args"])
    options = [f"--input={name}={folder}" for name, folder in plan["inputs"].items()]
    context = open_context("pretrain", [*options, f"--output={beside / plan['name']}"])
    trainer = Trainer(context)
    checkpoints = Checkpoints(Path(plan["checkpoint"])) if plan.get("checkpoint") else None
    if checkpoints:
        restored = checkpoints.load(trainer.model, trainer.optimizer, trainer.numbers)
        trainer.numbers |= restored or {}
    seen: dict[str, Any] = {"begun_at": trainer.numbers["step"], "losses": [], "norms": []}
    seen |= {"parameters": trainer.parameters, "meshes": meshes(trainer.model)}
    seen["local"] = sum(local(weight).numel() for weight in trainer.model.parameters())
    while trainer.numbers["step"] < plan.get("until", trainer.args.steps):
        if trainer.numbers["step"] == plan.get("broken_at"):
            broken_step(trainer, seen)
            continue
        loss, norm, _ = trainer.step()
        seen["losses"].append(loss)
        seen["norms"].append(norm)
    seen["val_loss"] = trainer.numbers["val_loss"] = trainer.validate()
    seen["skipped"] = trainer.numbers["skipped"]
    if checkpoints:
        checkpoints.save(trainer.model, trainer.optimizer, trainer.numbers)
        checkpoints.close()
    if plan.get("export"):
        loop.finish(trainer, 0.0)
    if context.rank == 0:
        (beside / f"{plan['name']}.json").write_text(json.dumps(seen))


def broken_step(trainer: Trainer, seen: dict[str, Any]) -> None:
    """One step whose loss is no number; notes whether a weight moved."""
    before = [local(weight).detach().clone() for weight in trainer.model.parameters()]
    whole, trainer.loss = trainer.loss, lambda rows: tuple(loss * math.nan for loss in whole(rows))
    trainer.step()
    trainer.loss = whole
    after = [local(weight) for weight in trainer.model.parameters()]
    seen["moved"] = not all(map(torch.equal, before, after))


def meshes(model: Any) -> Counter[str]:
    """How many weights lie on each mesh; `whole` for those on none."""
    return Counter(
        "+".join(weight.device_mesh.mesh_dim_names) if isinstance(weight, DTensor) else "whole"
        for weight in model.parameters()
    )


def local(weight: Any) -> Any:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def main() -> None:
    file = Path(sys.argv[1])
    for plan in json.loads(file.read_text()):
        one(plan, file.parent)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
