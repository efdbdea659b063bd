"""`suan estimate train|serve|plan`: questions to the performance model, in tables or one by one.

Knows options. What they come to is in doors/estimates; how it is shown in show.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_MODEL = "A config.json, a folder with one, or numbers: layers=32,hidden=4096,heads=32,vocab=32000."
_QUANTITIES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


class Quantity(click.ParamType):
    """A number with K, M, B or T behind it, or none."""

    name = "quantity"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip().lower().replace("_", "").replace(",", "")
        factor = _QUANTITIES.get(text[-1:], 1.0)
        try:
            return float(text[:-1] if text[-1:] in _QUANTITIES else text) * factor
        except ValueError:
            self.fail(f"{value!r} is no quantity: 300B, 1.5T, 4096", parameter, context)


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_table = _options(
    click.option(
        "--csv",
        "table",
        type=click.Path(path_type=Path),
        metavar="IN",
        help="Rows to estimate: CSV or CSV.GZ.",
    ),
    click.option(
        "--out", type=click.Path(path_type=Path), metavar="OUT", help="Where the estimates go, with --csv."
    ),
)
_shared = _options(
    click.option(
        "--no-residual", is_flag=True, help="Pure mechanics, without what was learnt from measured runs."
    ),
    click.option("--json", "as_json", is_flag=True, help="Exact JSON."),
)
_subject = _options(
    click.option("--model", metavar="CONFIG", help=_MODEL),
    click.option("--accelerator", metavar="KIND", help="As suan sites --accelerators lists them."),
    click.option("--devices", type=click.IntRange(min=1), help="How many."),
    click.option("--precision", default="bf16", show_default=True, help="Of the matrix multiplications."),
)
_step = _options(
    click.option(
        "--global-batch",
        type=click.IntRange(min=1),
        default=None,
        help="Sequences a step. [default: 4M tokens]",
    ),
    click.option(
        "--seq-len", type=click.IntRange(min=1), default=4096, show_default=True, help="Tokens a sequence."
    ),
)
_machine = _options(
    click.option("--devices-per-node", type=click.IntRange(min=1), default=None, help="[default: 8]"),
    click.option(
        "--network-gbps",
        type=float,
        default=0.0,
        help="Of a node, one direction. [default: the kind's usual]",
    ),
)
_layout = _options(
    *(
        click.option(
            f"--{name}", type=click.IntRange(min=1), default=None, help=f"{what}. [default: the best]"
        )
        for name, what in (
            ("dp", "Data parallelism"),
            ("tp", "Tensor parallelism"),
            ("pp", "Pipeline stages"),
            ("vpp", "Model chunks a stage"),
            ("ep", "Expert parallelism"),
            ("cp", "Context parallelism"),
            ("micro-batch", "Sequences at once"),
        )
    ),
    click.option(
        "--zero", type=click.IntRange(0, 3), default=None, help="ZeRO stage; 3 is FSDP. [default: the best]"
    ),
    click.option(
        "--recompute",
        type=click.Choice(["none", "selective", "full"]),
        default=None,
        help="[default: the best]",
    ),
)
_picture = click.option(
    "--plot",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE.svg|png",
    help="Also draw it (suan[plot]).",
)


@click.group("estimate")
@click.option("--json", "as_json", is_flag=True, help="Exact JSON, of whichever is asked.")
@click.pass_context
def estimate(context: click.Context, *, as_json: bool) -> None:
    """Hours, memory, energy and the best parallel plan of large-model work, before anything runs."""
    context.obj = as_json


@estimate.command("train")
@_table
@_subject
@click.option("--tokens", type=Quantity(), help="To train on: 300B, 15T.")
@_step
@_machine
@_layout
@click.option(
    "--yuan-per-device-h", type=click.FloatRange(min=0), default=None, help="Price of a device-hour."
)
@click.option("--yuan-per-kwh", type=click.FloatRange(min=0), default=None, help="Price of electricity.")
@click.option("--pue", type=click.FloatRange(min=1), default=1.0, show_default=True, help="Of the site.")
@_picture
@_shared
def train(
    *, table: Path | None, out: Path | None, no_residual: bool, as_json: bool, plot: Path | None, **asked: Any
) -> None:
    """What training takes: of every row of a table, or of one model on some devices.

    With --csv, reads rows with the columns of docs/reference/estimate.md and writes an estimate for each. An
    empty plan column means: the best plan.
    """
    if table or out:
        _rows("train", table, out, residual=not no_residual, as_json=as_json or _json_asked())
        return
    from suan.doors.cli.estimate import show
    from suan.doors.estimates.training import Price, training_answer

    model, machine, step, plan = _question(asked, needed=("model", "accelerator", "devices", "tokens"))
    priced = asked["yuan_per_device_h"] is not None or asked["yuan_per_kwh"] is not None
    price = Price(
        yuan_per_device_h=asked["yuan_per_device_h"] or 0.0,
        yuan_per_kwh=asked["yuan_per_kwh"] or 0.0,
        pue=asked["pue"],
    )
    answer = training_answer(
        model,
        machine,
        step,
        tokens=asked["tokens"],
        plan=plan,
        price=price if priced else None,
        residual=not no_residual,
    )
    if plot:
        from suan.doors.estimates.picture import draw_step

        draw_step([answer.plan], plot, title=f"{answer.model} on {answer.devices:,} {answer.accelerator}")
    show.training(answer, as_json=as_json or _json_asked())


@estimate.command("plan")
@_subject
@_step
@_machine
@_layout
@click.option("--count", type=click.IntRange(1, 100), default=5, show_default=True, help="Plans to show.")
@_picture
@_shared
def plan(*, no_residual: bool, as_json: bool, plot: Path | None, count: int, **asked: Any) -> None:
    """The best parallel plans of a model on some devices, each with its reason."""
    from suan.doors.cli.estimate import show
    from suan.doors.estimates.training import plans_answer

    model, machine, step, fixed = _question(asked, needed=("model", "accelerator", "devices"))
    answer = plans_answer(model, machine, step, plan=fixed, count=count, residual=not no_residual)
    if plot:
        from suan.doors.estimates.picture import draw_plans

        draw_plans(answer, plot)
    show.plans(answer, as_json=as_json or _json_asked())


@estimate.command("together")
@click.option("--model", metavar="CONFIG", required=True, help=_MODEL)
@click.option(
    "--pool",
    "pools",
    multiple=True,
    required=True,
    metavar="KIND=DEVICES",
    help="A pool that takes part; two at least.",
)
@click.option("--precision", default="bf16", show_default=True, help="Of the matrix multiplications.")
@_step
@click.option(
    "--gbps-between", type=float, default=100.0, show_default=True, help="Gbit/s of the link between them."
)
@click.option("--rtt-ms", type=float, default=0.0, show_default=True, help="Its round trip.")
@click.option("--json", "as_json", is_flag=True, help="Exact JSON.")
def together(
    *, model: str, pools: tuple[str, ...], gbps_between: float, rtt_ms: float, as_json: bool, **step: Any
) -> None:
    """One training step over pools of different kinds or centres: who takes how much, and whether it pays."""
    from suan.doors.cli.estimate import show
    from suan.doors.estimates.model import model_called
    from suan.doors.estimates.pools import pools_answer
    from suan.doors.estimates.training import Machine, Step

    machines = []
    for text in pools:
        kind, _, count = text.partition("=")
        if not count.isdigit() or not int(count):
            raise click.BadParameter(
                f"{text!r} is not KIND=DEVICES, for example H100=64", param_hint="--pool"
            )
        machines.append(Machine(accelerator=kind, devices=int(count)))
    asked = Step(**{**step, "global_batch": step["global_batch"] or 0})
    answer = pools_answer(model_called(model), machines, asked, gbps_between=gbps_between, rtt_ms=rtt_ms)
    show.pools(answer, as_json=as_json or _json_asked())


@estimate.command("serve")
@_table
@_subject
@click.option("--tp", type=click.IntRange(min=1), default=None, help="Devices a replica. [default: the best]")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=1024, show_default=True)
@click.option("--output-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option(
    "--request-rate",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Requests a second. [default: all it can take]",
)
@click.option(
    "--ttft-ms", type=click.FloatRange(min=0), default=0.0, help="Limit to the first token, for 99 of 100."
)
@click.option(
    "--itl-ms", type=click.FloatRange(min=0), default=0.0, help="Limit between tokens, for 99 of 100."
)
@_shared
def serve(*, table: Path | None, out: Path | None, no_residual: bool, as_json: bool, **asked: Any) -> None:
    """What a model serves: of every row of a table, or of one model on some devices.

    With a rate and a limit on latency, also how many replicas that needs.
    """
    if table or out:
        _rows("serve", table, out, residual=not no_residual, as_json=as_json or _json_asked())
        return
    from suan.doors.cli.estimate import show
    from suan.doors.estimates.model import model_called
    from suan.doors.estimates.serving import Stream, serving_answer

    _need(asked, ("model", "accelerator", "devices"))
    answer = serving_answer(
        model_called(asked["model"]),
        asked["accelerator"],
        asked["devices"],
        stream=Stream(
            prompt_tokens=asked["prompt_tokens"],
            output_tokens=asked["output_tokens"],
            requests_per_s=asked["request_rate"],
            ttft_slo_ms=asked["ttft_ms"],
            itl_slo_ms=asked["itl_ms"],
        ),
        precision=asked["precision"],
        tp=asked["tp"] or 0,
        residual=not no_residual,
    )
    show.serving(answer, as_json=as_json or _json_asked())


# ------------------------------------------------------------------ from options to questions


def _need(asked: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in names if asked.get(name) is None]
    if missing:
        raise click.UsageError(
            f"missing {', '.join(missing)} (or --csv IN --out OUT)", click.get_current_context()
        )


def _question(asked: dict[str, Any], *, needed: tuple[str, ...]) -> tuple[Any, Any, Any, dict[str, int]]:
    """(model, machine, step, the plan columns that stand) as the options say them."""
    from suan.doors.estimates.model import model_called
    from suan.doors.estimates.training import Machine, Step, plan_of

    _need(asked, needed)
    machine = Machine(
        accelerator=asked["accelerator"],
        devices=asked["devices"],
        devices_per_node=asked["devices_per_node"] or 0,
        scaleout_gbps_per_node=asked["network_gbps"],
    )
    step = Step(
        global_batch=asked["global_batch"] or 0, seq_len=asked["seq_len"], precision=asked["precision"]
    )
    names = ("dp", "tp", "pp", "vpp", "ep", "cp", "micro_batch", "zero", "recompute")
    plan = plan_of({name: asked[name] for name in names if asked[name] is not None})
    return model_called(asked["model"]), machine, step, plan


def _json_asked() -> bool:
    """Whether `--json` stands before the subcommand."""
    return bool(click.get_current_context().obj)


def _rows(what: str, table: Path | None, out: Path | None, *, residual: bool, as_json: bool) -> None:
    """Estimates every row of a table into another."""
    if not (table and out):
        raise click.UsageError("--csv and --out belong together", click.get_current_context())
    from suan.doors.cli.estimate import show
    from suan.doors.estimates import serving, tables, training

    known = tables.TRAINING if what == "train" else tables.SERVING
    rows = training.estimated_rows if what == "train" else serving.estimated_rows
    columns, notes = tables.read_table(table, known)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    found = rows(columns, residual=residual, where=str(table))
    tables.write_table(out, found)
    show.written(out, found, as_json=as_json)
