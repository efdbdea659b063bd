"""Plain PyTorch: a model that writes the next character of a text, on one process or several (DDP).

    torchrun --nproc-per-node 2 train.py TEXT_FOLDER OUTPUT_FOLDER [CHECKPOINT_FOLDER]

Knows nothing of Suan, and reads the variables that torchrun sets; `python train.py …` is one process. It
keeps a checkpoint by writing beside its name and renaming, and goes on from there.
"""

import gzip
import itertools
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS, ROWS, LENGTH, WIDTH = 120, 16, 48, 64


class Writer(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, WIDTH)
        self.recall = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, letters)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.head(self.recall(self.embed(text))[0])


def read(folder: Path) -> str:
    with gzip.open(next(folder.rglob("*.jsonl.gz")), "rt", encoding="utf-8") as lines:
        return "\n".join("".join(json.loads(line)["lines"]) for line in itertools.islice(lines, 1500))


def main() -> None:
    data, output = Path(sys.argv[1]), Path(sys.argv[2])
    kept = Path(sys.argv[3] if len(sys.argv) > 3 else output) / "state.pt"
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(1)
    text = read(data)
    letters = sorted(set(text))
    place = {letter: index for index, letter in enumerate(letters)}
    tokens = torch.tensor([place[letter] for letter in text])
    model = Writer(len(letters)).to(device)
    learner = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    begin, losses = 0, []
    if kept.exists():
        state = torch.load(kept, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin, losses = state["step"], state["losses"]
    for step in range(begin, STEPS):
        draw = torch.Generator().manual_seed(step)  # data are a function of the step: a restart sees the same
        starts = torch.randint(len(tokens) - LENGTH - 1, (ROWS,), generator=draw)[rank::world]
        rows = torch.stack([tokens[start : start + LENGTH + 1] for start in starts]).to(device)
        loss = nn.functional.cross_entropy(learner(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if rank == 0 and (step + 1) % 40 == 0:
            print(f"step {step + 1} of {STEPS}, loss {losses[-1]:.3f}", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            kept.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state | {"step": step + 1, "losses": losses}, kept.with_suffix(".tmp"))
            kept.with_suffix(".tmp").replace(kept)
    if rank == 0:
        output.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), output / "model.pt")
        (output / "report.json").write_text(json.dumps({"first_loss": losses[0], "loss": losses[-1]}) + "\n")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
