"""What does the model say of large runs that were published, on NVIDIA and on Ascend?

Five models of examples/estimate: the best plan, hours, memory and energy, beside what was published where it
was. The published time divided by the estimated one is the figure to look at: published runs include
restarts, ours does not.

    python bench/estimate_examples.py [--write]
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from estimate_data import ROOT, write_page

from suan.doors.estimates.answers import PlanAnswer, TrainingAnswer
from suan.doors.estimates.model import model_called
from suan.doors.estimates.training import Machine, Step, plan_of, training_answer


@dataclass(frozen=True)
class Example:
    config: str
    accelerator: str
    devices: int
    global_batch: int
    seq_len: int
    tokens: float
    precision: str = "bf16"
    network_gbps: float = 0.0
    plan: tuple[tuple[str, int | str], ...] = ()  # what the published run had
    published_hours: float | None = None
    published: str = "nothing"


YUAN = ("yuan-1.0.json", 3360, 2048, 180e9)
GPT3 = ("gpt-3-175b.json", 1536, 2048, 300e9)
LLAMA = ("llama-3.1-405b.json", 2048, 8192, 15.6e12)
DEEPSEEK = ("deepseek-v3-671b.json", 15360, 4096, 14.8e12)
SWITCH = ("switch-1.6t.json", 4096, 512, 500e9)


def _on(model: tuple[str, int, int, float], accelerator: str, devices: int, **more: object) -> Example:
    config, batch, seq_len, tokens = model
    return Example(config, accelerator, devices, batch, seq_len, tokens, **more)  # type: ignore[arg-type]


EXAMPLES = (
    _on(
        YUAN,
        "A100-80GB",
        2128,
        network_gbps=1600,
        plan=(("tp", 8), ("pp", 38), ("recompute", "full")),
        published_hours=16 * 24.0,
        published="about 16 days, 44 % of the devices' peak (Inspur, 2021)",
    ),
    _on(YUAN, "A100-80GB", 2128, network_gbps=1600),
    _on(YUAN, "910B", 2128),
    _on(
        GPT3,
        "A100-80GB",
        1024,
        network_gbps=1600,
        plan=(("tp", 8), ("pp", 8), ("micro_batch", 1), ("recompute", "full")),
        published_hours=34 * 24.0,
        published="34 days at 140 TFLOP/s with recompute (Narayanan et al., 2021)",
    ),
    _on(GPT3, "A100-80GB", 1024, network_gbps=1600),
    _on(GPT3, "910B", 1024),
    _on(
        LLAMA,
        "H100",
        16384,
        network_gbps=3200,
        plan=(("tp", 8), ("pp", 16), ("cp", 1)),
        published_hours=30.84e6 / 16384,
        published="30.84 M device-hours, 41 % of peak at this layout (Llama team, 2024)",
    ),
    _on(LLAMA, "H100", 16384, network_gbps=3200),
    _on(LLAMA, "910B", 16384),
    _on(
        DEEPSEEK,
        "H800",
        2048,
        precision="fp8",
        network_gbps=3200,
        plan=(("tp", 1), ("pp", 16), ("cp", 1), ("ep", 64)),
        published_hours=2.664e6 / 2048,
        published="2.664 M device-hours (DeepSeek-AI, 2024)",
    ),
    _on(DEEPSEEK, "H800", 2048, precision="fp8", network_gbps=3200),
    _on(DEEPSEEK, "910B", 2048),
    _on(SWITCH, "A100-80GB", 2048, network_gbps=1600),
    _on(SWITCH, "910B", 2048),
)


def answered(example: Example) -> TrainingAnswer:
    model = model_called(str(ROOT / "examples" / "estimate" / example.config))
    machine = Machine(
        accelerator=example.accelerator, devices=example.devices, scaleout_gbps_per_node=example.network_gbps
    )
    step = Step(global_batch=example.global_batch, seq_len=example.seq_len, precision=example.precision)
    return training_answer(model, machine, step, tokens=example.tokens, plan=plan_of(dict(example.plan)))


def layout(plan: PlanAnswer) -> str:
    """`tp 8 pp 8 dp 16, micro-batch 1, …`."""
    said = [f"{name} {getattr(plan, name)}" for name in ("tp", "pp", "dp")]
    said += [f"{name} {getattr(plan, name)}" for name in ("cp", "ep", "vpp") if getattr(plan, name) > 1]
    recompute = plan.recompute + (f" {plan.recompute_ratio:.0%}" if 0 < plan.recompute_ratio < 1 else "")
    return f"{' '.join(said)}, micro-batch {plan.micro_batch}, recompute {recompute}"


def line(example: Example, answer: TrainingAnswer) -> str:
    plan = answer.plan
    ratio = "–" if example.published_hours is None else f"{example.published_hours / answer.hours:.2f}"
    whose = "published" if example.plan else "ours"
    cells = (
        f"{answer.model}, {answer.params_b:,.1f} B",
        f"{answer.devices:,} {answer.accelerator}, {example.precision}",
        f"{whose}: {layout(plan)}",
        f"{answer.hours / 24:,.1f} ({answer.hours_low / 24:,.1f} to {answer.hours_high / 24:,.1f})",
        f"{plan.tokens_per_s_per_accel:,.0f}",
        f"{plan.mfu:.0%}",
        f"{plan.memory_gib:.0f}{'' if plan.fits else ', does not fit'}",
        f"{answer.kwh / 1000:,.0f}",
        plan.bound_by,
        example.published,
        ratio,
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    headings = (
        "model", "on", "plan", "days", "tokens/s each", "MFU", "GiB", "MWh", "bound by", "published",
        "published / ours",
    )  # fmt: skip
    lines = [HEAD, f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    lines += [line(example, answered(example)) for example in EXAMPLES]
    write_page("estimate-examples", "\n".join(lines) + TAIL)


HEAD = """# Worked examples of the performance model

Made by `python bench/estimate_examples.py --write` from the configs in `examples/estimate`. A row whose plan
is `published` estimates the layout that the run had, what its paper leaves open chosen; `ours` is the best
that the model finds. MFU counts causal attention once and no recompute, over the 16-bit peak unless the model
computes in 8 bit. Hours are of training alone: published ones include restarts, evaluations and changes of
batch, so the last column should be somewhat above 1.
"""
TAIL = """

Run one yourself:

```sh
suan estimate plan --model examples/estimate/yuan-1.0.json --accelerator A100-80GB --devices 2128 \\
    --global-batch 3360 --seq-len 2048
```

What makes these figures uncertain: the batch of a run grows while it trains, the network of some sites is not
published, and no Ascend run of these models is. [Accuracy](estimate-accuracy-plans.md) is measured elsewhere.
"""

if __name__ == "__main__":
    main()
