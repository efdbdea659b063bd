"""Checkpoints of a training run, by torch's distributed checkpoint: whole or absent, for any number of ranks.

Knows folders `step-N`, and that a run may be killed between any two instructions. Does not know the
training loop.
"""

import shutil
from pathlib import Path
from typing import Any


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; a folder without `.metadata` was being written when the run died."""
    complete = [
        found
        for found in folder.glob("step-*")
        if found.name[5:].isdigit() and (found / ".metadata").exists()
    ]
    return max(complete, key=_step, default=None)


def _state(model: Any, optimizer: Any, numbers: dict[str, Any]) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, "numbers": numbers}


def save(folder: Path, model: Any, optimizer: Any, numbers: dict[str, Any]) -> None:
    """Writes `step-N` (N from `numbers`) and then removes the older ones. Every rank calls it."""
    import torch.distributed as dist
    from torch.distributed import checkpoint as dcp

    several = dist.is_initialized()
    first = not several or dist.get_rank() == 0
    final = folder / f"step-{numbers['step']}"
    partial = folder / f"step-{numbers['step']}.tmp"
    if first:
        shutil.rmtree(partial, ignore_errors=True)
    if several:
        dist.barrier()
    dcp.save(_state(model, optimizer, numbers), checkpoint_id=partial, no_dist=not several)
    if several:
        dist.barrier()
    if first:
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        for other in folder.glob("step-*"):
            if other != final:
                shutil.rmtree(other, ignore_errors=True)
    if several:
        dist.barrier()


def load(folder: Path, model: Any, optimizer: Any, numbers: dict[str, Any]) -> dict[str, Any] | None:
    """The numbers of the newest checkpoint, its state now in model and optimiser; None when there is none.

    A checkpoint whose `fingerprint` differs was made with other data or settings, and is left alone.
    """
    import torch.distributed as dist
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_state_dict

    found = latest(folder)
    if found is None:
        return None
    alone = not dist.is_initialized()
    stored = {"numbers": dict(numbers)}
    dcp.load(stored, checkpoint_id=found, no_dist=alone)
    if stored["numbers"]["fingerprint"] != numbers["fingerprint"]:
        return None
    state = _state(model, optimizer, dict(numbers))
    dcp.load(state, checkpoint_id=found, no_dist=alone)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    restored: dict[str, Any] = state["numbers"]
    return restored
