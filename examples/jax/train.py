"""Plain JAX: a model that guesses the next character from the eight before it.

    python train.py TEXT_FOLDER OUTPUT_FOLDER

Knows nothing of Suan, and needs nothing but jax and numpy.
"""

import gzip
import itertools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

STEPS, ROWS, LENGTH, WIDTH, RATE = 150, 128, 8, 64, 0.003


def read(folder: Path) -> str:
    with gzip.open(next(folder.rglob("*.jsonl.gz")), "rt", encoding="utf-8") as lines:
        return "\n".join("".join(json.loads(line)["lines"]) for line in itertools.islice(lines, 1000))


def first_weights(letters: int) -> dict[str, jax.Array]:
    one, two, three = jax.random.split(jax.random.key(1), 3)
    return {
        "embed": 0.1 * jax.random.normal(one, (letters, WIDTH)),
        "mix": jax.random.normal(two, (LENGTH * WIDTH, 2 * WIDTH)) / (LENGTH * WIDTH) ** 0.5,
        "head": jax.random.normal(three, (2 * WIDTH, letters)) / (2 * WIDTH) ** 0.5,
    }


def loss_of(weights: dict[str, jax.Array], before: jax.Array, after: jax.Array) -> jax.Array:
    seen = weights["embed"][before].reshape(len(before), -1)
    scores = jax.nn.log_softmax(jax.nn.gelu(seen @ weights["mix"]) @ weights["head"])
    return -jnp.take_along_axis(scores, after[:, None], axis=1).mean()


@jax.jit
def step(weights: dict, moments: dict, number: jax.Array, before: jax.Array, after: jax.Array) -> tuple:
    """One step of Adam."""
    loss, slope = jax.value_and_grad(loss_of)(weights, before, after)
    mean = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, moments["mean"], slope)
    square = jax.tree.map(lambda old, new: 0.99 * old + 0.01 * new * new, moments["square"], slope)
    rate = RATE * jnp.sqrt(1 - 0.99**number) / (1 - 0.9**number)
    weights = jax.tree.map(lambda old, m, s: old - rate * m / (jnp.sqrt(s) + 1e-8), weights, mean, square)
    return weights, {"mean": mean, "square": square}, loss


def main() -> None:
    text, output = read(Path(sys.argv[1])), Path(sys.argv[2])
    letters = sorted(set(text))
    place = {letter: index for index, letter in enumerate(letters)}
    tokens = np.array([place[letter] for letter in text])
    windows = np.lib.stride_tricks.sliding_window_view(tokens, LENGTH + 1)
    draw = np.random.default_rng(1)
    weights = first_weights(len(letters))
    zeros = jax.tree.map(jnp.zeros_like, weights)
    moments, losses = {"mean": zeros, "square": zeros}, []
    for number in range(1, STEPS + 1):
        rows = windows[draw.integers(len(windows), size=ROWS)]
        weights, moments, loss = step(weights, moments, jnp.float32(number), rows[:, :-1], rows[:, -1])
        losses.append(float(loss))
        if number % 50 == 0:
            print(f"step {number} of {STEPS}, loss {losses[-1]:.3f}", flush=True)
    output.mkdir(parents=True, exist_ok=True)
    np.savez(output / "model.npz", **{name: np.asarray(weight) for name, weight in weights.items()})
    report = {"first_loss": losses[0], "loss": float(np.mean(losses[-10:])), "device": str(jax.devices()[0])}
    (output / "report.json").write_text(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
