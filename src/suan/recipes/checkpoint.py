"""Checkpoints of a training run, by torch's distributed checkpoint: whole or absent, for any layout of ranks.

Knows folders `step-N`, that writing goes on beside training, and that a run may be killed between any two
instructions. Does not know the training loop.
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


def _state(model: Any, optimizer: Any, numbers: dict[str, Any], *, on_cpu: bool = False) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    weights, moments = get_state_dict(model, optimizer, options=StateDictOptions(cpu_offload=on_cpu))
    return {"model": weights, "optimizer": moments, "numbers": dict(numbers)}


class Checkpoints:
    """The checkpoints in one folder. Every rank has one and calls the same methods in the same order."""

    def __init__(self, folder: Path) -> None:
        import torch.distributed as dist

        self._folder = folder
        self._several = dist.is_initialized()
        self._first = not self._several or dist.get_rank() == 0
        # Writing has collectives of its own, in a thread: in the training's group they would mix with those.
        self._group = dist.new_group(backend="gloo") if self._several else None
        self._writing: tuple[Any, int] | None = None

    def save(self, model: Any, optimizer: Any, numbers: dict[str, Any]) -> None:
        """Starts to write `step-N` (N from `numbers`); what is saved is the state of now."""
        import torch
        from torch.distributed import checkpoint as dcp
        from torch.utils._pytree import tree_map_only

        self._settle(wait=True)
        if self._first:
            shutil.rmtree(self._partial(numbers["step"]), ignore_errors=True)
        self._barrier()
        cuda = next(model.parameters()).is_cuda
        state = _state(model, optimizer, numbers, on_cpu=cuda)
        if not cuda:
            # Training goes on in these tensors. (Nor can torch 2.13 stage shards that transformers loaded:
            # "copy_() on an invalid python storage".)
            state = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), state)
        future = dcp.async_save(
            state,
            checkpoint_id=self._partial(numbers["step"]),
            process_group=self._group,
            no_dist=not self._several,
        )
        self._writing = (future, numbers["step"])

    def settle(self) -> None:
        """Gives what has been written whole its name; to be called now and then. Waits for nobody."""
        self._settle(wait=False)

    def close(self) -> None:
        """Returns when all that was saved has its name."""
        self._settle(wait=True)
        self._barrier()

    def _settle(self, *, wait: bool) -> None:
        """Names what has been written and removes what is older.

        The first rank's write ends when all ranks' have: it alone names.
        """
        if self._writing is None or not (wait or self._writing[0].done()):
            return
        future, step = self._writing
        self._writing = None
        future.result()
        if self._first:
            final = self._folder / f"step-{step}"
            shutil.rmtree(final, ignore_errors=True)
            self._partial(step).replace(final)
            for other in self._folder.glob("step-*"):
                if other != final:
                    shutil.rmtree(other, ignore_errors=True)

    def load(self, model: Any, optimizer: Any, numbers: dict[str, Any]) -> dict[str, Any] | None:
        """The numbers of the newest checkpoint, its state now in model and optimiser; None without one.

        A checkpoint whose `fingerprint` differs was made with other data or settings, and is left alone.
        That of another number or layout of ranks is read just the same.
        """
        from torch.distributed import checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import set_state_dict

        found = latest(self._folder)
        if found is None:
            return None
        alone = not self._several
        stored = {"numbers": dict(numbers)}
        dcp.load(stored, checkpoint_id=found, no_dist=alone)
        if stored["numbers"]["fingerprint"] != numbers["fingerprint"]:
            return None
        state = _state(model, optimizer, numbers)
        dcp.load(state, checkpoint_id=found, no_dist=alone)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        restored: dict[str, Any] = state["numbers"]
        return restored

    def _partial(self, step: int) -> Path:
        return self._folder / f"step-{step}.tmp"

    def _barrier(self) -> None:
        if self._group is not None:
            import torch.distributed as dist

            dist.barrier(self._group)
