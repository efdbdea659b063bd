"""A vision transformer pretrained without labels: it learns to paint patches that are hidden (SimMIM).

    python train.py --output DIR [--steps 300]

The pictures are the 1,797 handwritten digits (8 x 8) that scikit-learn carries in its package, from the UCI
repository (Alpaydin and Kaynak, 1998, CC BY 4.0). Half of them are held out. On these its error is put beside
that of the one picture that is best where nothing is seen: the median of each pixel.
"""

import argparse
import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForMaskedImageModeling

MASKED = 0.5


def held_out_error(model: ViTForMaskedImageModeling, images: torch.Tensor, hidden: torch.Tensor) -> float:
    """Mean absolute error on the hidden pixels."""
    model.eval()
    with torch.no_grad():
        error = float(model(pixel_values=images, bool_masked_pos=hidden).loss)
    model.train()
    return error


def median_error(known: torch.Tensor, images: torch.Tensor, hidden: torch.Tensor) -> float:
    """The same for the median of `known`, pixel by pixel."""
    pixels = hidden.reshape(-1, 4, 4).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, None]
    return float((images - known.median(dim=0).values).abs()[pixels].mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()

    torch.manual_seed(1)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    known, held_out = images[::2], images[1::2]
    asked = torch.rand(len(held_out), 16, generator=torch.Generator().manual_seed(1)) < MASKED
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        encoder_stride=2,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ViTForMaskedImageModeling(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=options.steps)
    model.train()
    for _ in range(options.steps):
        chosen = known[torch.randint(len(known), (64,))]
        hidden = torch.rand(len(chosen), 16) < MASKED
        loss = model(pixel_values=chosen, bool_masked_pos=hidden).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(options.output)
    report = {
        "held_out_error": held_out_error(model, held_out, asked),
        "held_out_error_of_the_median": median_error(known, held_out, asked),
    }
    (options.output / "report.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
