"""The watch over reinforcement learning: at held-out prompts, reward beside a quality not trained on.

Knows when the two part (the reward rises, the quality falls), which is how a hacked reward looks from
outside, and keeps the weights of the best look before. Does not know what any reward means.

Source: Gao, Schulman and Hilton, Scaling Laws for Reward Model Overoptimization (2023): the proxy goes on
rising after the quality that it stands for has begun to fall.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from suan.recipes.compare import Panel, score, write_answers
from suan.recipes.rewards import Row
from suan.recipes.rewards.text import variety
from suan.recipes.runtime import Context

PATIENCE = 2  # looks in a row
WEIGHTS = "weights-{rank}.pt"


class Watch(NamedTuple):
    """Held-out prompts, what is looked at there, and how much quality may be lost."""

    rows: Sequence[Row]
    panel: Panel
    quality: Mapping[str, float]
    tolerance: float

    def look(self, model: Any, tokenizer: Any) -> dict[str, float]:
        """Means of what it writes now: `reward`, `quality`, each score, `variety`, `form_correct`."""
        answers = write_answers(model, tokenizer, self.rows, self.panel.sampling)
        scores = score(self.rows, answers, self.panel)
        numbers = {name: fmean(values) for name, values in scores.items()} | {"variety": variety(answers)}
        if "form" in scores:
            numbers["form_correct"] = fmean(float(value == 1.0) for value in scores["form"])
        return numbers | {"quality": sum(weight * numbers[name] for name, weight in self.quality.items())}

    def fell(self, first: Mapping[str, float], now: Mapping[str, float]) -> bool:
        """Whether quality was lost while the reward rose."""
        floor = first["quality"] - self.tolerance * abs(first["quality"])
        return now["reward"] > first["reward"] and now["quality"] < floor

    def best(self, looks: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """The look with the most reward of those at which quality had not been lost; the later of equals."""
        return max(reversed([now for now in looks if not self.fell(looks[0], now)]), key=itemgetter("reward"))

    def parted(self, looks: Sequence[Mapping[str, float]]) -> bool:
        """Whether each of the last looks found less quality at more reward than the first."""
        return len(looks) > PATIENCE and all(self.fell(looks[0], now) for now in looks[-PATIENCE:])


class Watching:
    """A trainer's callback: looks, keeps the best weights in `folder`, ends the training when the two part.

    `numbers` outlive a kill: `looks`, one a look, `best_step`, and `parted_at_step` when they did.
    """

    def __init__(
        self, context: Context[Any], watch: Watch, tokenizer: Any, numbers: dict[str, Any], folder: Path
    ) -> None:
        self._context, self._watch, self._tokenizer = context, watch, tokenizer
        self._numbers, self._folder = numbers, folder

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 0:
            self._numbers["looks"] = []
            self._look(state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        last = state.global_step == state.max_steps
        if not last and state.global_step % self._context.args.eval_every:
            return
        self._look(state, model)
        if self._watch.parted(self._numbers["looks"]):
            self._numbers["parted_at_step"] = state.global_step
            control.should_training_stop = True

    def _look(self, state: Any, model: Any) -> None:
        looks = self._numbers["looks"]
        looks.append({"step": state.global_step, **self._watch.look(model, self._tokenizer)})
        shown = {f"held_out_{key}": value for key, value in looks[-1].items() if key != "step"}
        self._context.progress.write(step=state.global_step, total=state.max_steps, phase="look", **shown)
        if looks[-1] == self._watch.best(looks):
            self._numbers["best_step"] = state.global_step
            keep_weights(self._folder, model, self._context.rank)


def _trained(model: Any) -> dict[str, Any]:
    """What is trained of a model, as this rank holds it."""
    return {
        name: weight.to_local() if hasattr(weight, "to_local") else weight
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


def keep_weights(folder: Path, model: Any, rank: int) -> None:
    """Writes what is trained of the model, whole or not at all."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / WEIGHTS.format(rank=rank)
    partial = file.with_suffix(".tmp")
    torch.save({name: weight.detach().cpu() for name, weight in _trained(model).items()}, partial)
    partial.replace(file)


def take_back(folder: Path, model: Any, rank: int) -> None:
    """The weights of the best look back in the model."""
    import torch

    kept = torch.load(folder / WEIGHTS.format(rank=rank), weights_only=True, map_location="cpu")
    with torch.no_grad():
        for name, weight in _trained(model).items():
            weight.copy_(kept[name])
