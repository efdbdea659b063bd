"""The stage's run: `python -m suan.recipes.blind`."""

import sys
from typing import Any

from suan.recipes.blind import Args
from suan.recipes.blind.sheet import MACHINE, Item, arrange, read_answers, write_key, write_sheet
from suan.recipes.blind.statistics import judge_table, summary
from suan.recipes.evaluate.harness import device, offline
from suan.recipes.evaluate.written import write_answers
from suan.recipes.runtime import Context, arguments, run_stage, write_json
from suan.recipes.tokenizer import read_documents


def _prepare(context: Context[Args]) -> int:
    args = context.args
    offline(context.scratch)
    documents = read_documents(context.input("corpus"), "valid.jsonl")
    talks = [document["messages"] for document in documents if document.get("messages")]
    pairs = [(talk[0]["content"], talk[-1]["content"]) for talk in talks if len(talk) == 2]
    chosen, sources = arrange(pairs, args.items, args.seed)
    context.progress.write(step=0, total=2, phase="prompts chosen", items=len(chosen))
    asked = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": ""}] for prompt, _ in chosen
    ]
    of_model = [talk for talk, source in zip(asked, sources, strict=True) if source == MACHINE]
    written = iter(write_answers(context.input("model"), of_model, args, device()))
    items = [
        Item(prompt, next(written).strip() if source == MACHINE else text.strip(), source)
        for (prompt, text), source in zip(chosen, sources, strict=True)
    ]
    context.progress.write(step=1, total=2, phase="texts written")
    write_sheet(context.output("sheet"), items)
    write_key(context.output("key"), items)
    for name in ("sheet", "key"):
        write_json(
            context.output(name) / "suan.json",
            {"recipe": "blind", "args": arguments(args) | ({"seed": None} if name == "sheet" else {})},
        )
    context.progress.write(step=2, total=2, phase="done")
    context.metrics(items=len(items))
    return 0


def _score(context: Context[Args]) -> int:
    args, folder = context.args, context.output("report")
    answers = read_answers(context.input("key"), context.input("answers"))
    told = [answer for answer in answers if not answer.known]
    found: dict[str, Any] = summary(told or answers, args.margin, args.confidence)
    found |= {"known_left_out": len(answers) - len(told) if told else 0}
    judges = judge_table(told or answers, args.confidence)
    write_json(folder / "report.json", {"all": found, "judges": judges, "args": arguments(args)})
    text = _report(found, judges, args.confidence)
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    numbers = ("accuracy", "low", "high", "p_can_tell", "p_cannot_tell", "judges", "items")
    context.metrics(**{name: found[name] for name in numbers})
    return 0


def _report(found: dict[str, Any], judges: list[dict[str, Any]], confidence: float) -> str:
    plain = found["binomial"]
    lines = [
        f"# Human or machine: {found['verdict']}\n",
        f"{plain['answers']} answers of {found['judges']} judges on {found['items']} texts; "
        f"{found['known_left_out']} on texts that a judge knew are left out.\n",
        f"- accuracy {found['accuracy']:.3f}, {confidence:.0%} interval {found['low']:.3f} to "
        f"{found['high']:.3f} (judges and texts as samples)",
        f"- p that they only guess {found['p_can_tell']:.4f}; as independent answers {plain['p']:.4f}",
        f"- p that they are more than {found['margin']:g} from guessing {found['p_cannot_tell']:.4f}; "
        f"showing it takes about {found['answers_needed']} independent answers\n",
        "| judge | answers | right | accuracy | interval | p |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    lines += [
        f"| {row['judge']} | {row['answers']} | {row['right']} | {row['accuracy']:.3f} "
        f"| {row['low']:.3f} to {row['high']:.3f} | {row['p']:.4f} |"
        for row in judges
    ]
    return "\n".join(lines) + "\n"


def _body(context: Context[Args]) -> int:
    return _prepare(context) if context.args.step == "prepare" else _score(context)


def main() -> int:
    return run_stage("blind", _body)


if __name__ == "__main__":
    sys.exit(main())
