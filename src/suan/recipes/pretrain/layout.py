"""How a run is laid over processes: how many a node has, which mesh they form, which rows a rank reads.

Knows the environment of torchrun, the grid's plan in `SUAN_PLAN`, and `DistributedConfig` of transformers
(FSDP2, copies, tensor and expert parallelism; no pipeline). Does not know models or losses.
"""

import datetime
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suan.grid.error import Refused
from suan.recipes.pretrain.args import Args
from suan.recipes.runtime import Context

# The first rank of a node writes tokens and first weights while the others wait for it.
PATIENCE = datetime.timedelta(hours=2)


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """dp_replicate x fsdp x tp = ranks; ep divides fsdp x tp."""

    tp: int = 1
    ep: int = 1
    fsdp: int = 1
    dp_replicate: int = 1
    micro_rows: int = 0  # 0: all rows of a rank at once
    recompute: bool = False

    @property
    def dp(self) -> int:
        """Groups of ranks that see rows of their own."""
        return self.dp_replicate * self.fsdp


def layout_of(args: Args, world_size: int, plan: Mapping[str, Any]) -> Layout:
    """Sizes that are given stand; then the grid's plan; what is left shards the weights, or copies them.

    `plan`: `SUAN_PLAN`, names as in the performance model; empty where the grid made none.
    Raises: Refused `bad_recipe_args` when they do not make `world_size` ranks.
    """
    if args.sharding != "plan":
        plan = {}
    if int(plan.get("pp", 1)) * int(plan.get("cp", 1)) > 1:
        raise _refused(f"the plan has pp {plan.get('pp')}, cp {plan.get('cp')}: this recipe does neither")
    tp = args.tp_size or int(plan.get("tp", 1))
    ep = args.ep_size or int(plan.get("ep", 1))
    copies = args.sharding == "ddp" or int(plan.get("zero_stage", 3)) == 0
    rest = world_size // (tp * (args.fsdp_size or 1) * (args.dp_replicate_size or 1))
    fsdp = args.fsdp_size or (1 if copies and not args.dp_replicate_size else max(1, rest))
    dp_replicate = args.dp_replicate_size or max(1, world_size // (tp * fsdp))
    if tp * fsdp * dp_replicate != world_size:
        raise _refused(
            f"dp_replicate {dp_replicate} x fsdp {fsdp} x tp {tp} is not the {world_size} ranks there are"
        )
    if ep > 1 and (ep % tp or (fsdp * tp) % ep):
        raise _refused(f"ep {ep} must be a multiple of tp {tp} and divide fsdp x tp = {fsdp * tp}")
    if args.batch_rows % (dp_replicate * fsdp):
        raise _refused(
            f"batch_rows {args.batch_rows} must divide by dp_replicate x fsdp = {dp_replicate * fsdp}"
        )
    return Layout(
        tp=tp,
        ep=ep,
        fsdp=fsdp,
        dp_replicate=dp_replicate,
        micro_rows=args.micro_rows or int(plan.get("micro_batch", 0)),
        recompute=args.activation_checkpointing or plan.get("recompute", "none") != "none",
    )


def _refused(what: str) -> Refused:
    return Refused("bad_recipe_args", what, hint="change one of them", recipe="pretrain")


def planned() -> dict[str, Any]:
    """What the grid's performance model says of this run; empty without it."""
    found: dict[str, Any] = json.loads(os.environ.get("SUAN_PLAN") or "{}")
    return found


def start_processes(args: Args) -> None:
    """Becomes torchrun when this node is to have several ranks: a site starts one process a node.

    Returns when this process is a rank already, or the only one of its node.
    """
    import torch

    count = args.processes_per_node or torch.cuda.device_count() or 1
    if count == 1 or "LOCAL_WORLD_SIZE" in os.environ:
        return
    nodes, node = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    options = [f"--nnodes={nodes}", f"--node-rank={node}", f"--nproc-per-node={count}"]
    if nodes == "1":
        options.append("--standalone")
    else:
        options += [
            f"--master-addr={os.environ['MASTER_ADDR']}",
            f"--master-port={os.environ['MASTER_PORT']}",
        ]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *options,
        "-m",
        "suan.recipes.pretrain",
        *sys.argv[1:],
    ]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def open_group(context: Context[Any]) -> Any:
    """This rank's device; several ranks have found each other. Gloo is there too, for checkpoints."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", context.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(context.threads)
    if context.world_size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cuda:nccl,cpu:gloo" if cuda else "gloo", timeout=PATIENCE)
    return device


def node_folder(context: Context[Any]) -> Path:
    """A folder that all ranks of this node share, and they alone: that of the node's first rank."""
    if context.world_size == 1:
        return context.scratch
    import torch.distributed as dist

    folders: list[Any] = [None] * context.world_size
    dist.all_gather_object(folders, str(context.scratch))
    return Path(folders[context.rank - context.local_rank])


def clip_gradients(model: Any, max_norm: float) -> Any:
    """The norm of all gradients, which are then scaled down to `max_norm`.

    Experts and the rest lie on different meshes, and under tensor parallelism some weights on none: torch's
    own `clip_grad_norm_` spans one mesh only, so a norm is taken on each.
    """
    import torch
    from torch.distributed.tensor import DTensor

    by_mesh = defaultdict(list)
    for weight in model.parameters():
        if weight.grad is not None:
            by_mesh[weight.device_mesh if isinstance(weight, DTensor) else None].append(weight)
    norms = [
        torch.nn.utils.get_total_norm([weight.grad for weight in weights]) for weights in by_mesh.values()
    ]
    total = torch.linalg.vector_norm(
        torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms])
    )
    for weights in by_mesh.values():
        torch.nn.utils.clip_grads_with_norm_(weights, max_norm, total)
    return total


def reshard(model: Any) -> None:
    """Lets go of whole weights that FSDP2 keeps for a backward pass: without one they would stay whole."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def summed(numbers: Any) -> Any:
    """`numbers` added up over all ranks."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.all_reduce(numbers)
    return numbers
