"""annotate: items out to people and their judgements back, in Label Studio's JSON, with agreement measured.

`action: export` writes tasks and the labelling interface; `action: import` reads what people did and writes a
dataset folder that SFT or preference training reads. Knows the two kinds of judgement (an answer, a choice of
two), majorities and agreement. Does not talk to a labelling server and does not train.

Source: Label Studio's task and export format, labelstud.io/guide/task_format and /guide/export.
"""

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Resources, Task
from suan.recipes.runtime import Context, arguments, command, run_stage, write_json

PREFERENCE_VIEW = """<View>
  <Header value="Which answer is better?"/>
  <Text name="prompt" value="$prompt_text"/>
  <Pairwise name="better" toName="left,right" selectionStyle="background-color: #dde8ff"/>
  <Text name="left" value="$left"/>
  <Text name="right" value="$right"/>
  <Choices name="tie" toName="prompt" choice="single">
    <Choice value="tie"/><Choice value="both bad"/>
  </Choices>
</View>
"""
SFT_VIEW = """<View>
  <Header value="Write the answer, or mend the one that is there."/>
  <Text name="prompt" value="$prompt_text"/>
  <TextArea name="answer" toName="prompt" value="$draft" rows="8" maxSubmissions="1" editable="true"/>
  <Choices name="verdict" toName="prompt" choice="single" required="true">
    <Choice value="good"/><Choice value="bad"/>
  </Choices>
</View>
"""


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of annotate."""

    action: Annotated[
        Literal["export", "import"], Meta(description="Write tasks for people, or read what they did.")
    ] = "export"
    kind: Annotated[
        Literal["sft", "preference"], Meta(description="People write answers, or choose the better of two.")
    ] = "preference"
    rights: Annotated[
        str, Meta(description="Under which terms the judgements may be used; kept with the dataset.")
    ] = ""
    min_annotators: Annotated[
        int, Meta(ge=1, description="Items that fewer people judged are left out on import.")
    ] = 1
    min_agreement: Annotated[
        float, Meta(ge=0, le=1, description="Part of an item's judges who must say the same.")
    ] = 0.6
    held_out_ratio: Annotated[float, Meta(ge=0, lt=1, description="Part of the items held out.")] = 0.1
    max_items: Annotated[int, Meta(ge=0, description="Export at most so many items; 0 exports all.")] = 0
    seed: Annotated[int, Meta(description="Of which answer stands left, and of the order of tasks.")] = 0


def task(args: Args) -> Task:
    """One core, seconds; the input is the caller's to name."""
    output = {"tasks": "dataset:tasks"} if args.action == "export" else {"dataset": f"dataset:{args.kind}"}
    return Task(
        name="annotate",
        recipe="annotate",
        run=command("annotate"),
        args=arguments(args),
        outputs=output,
        resources=(Resources(cpus=1),),
        duration_s=5,
    )


# ---------------------------------------------------------------- export


def read_jsonl(folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of all JSON lines in a folder, in order. Raises: Refused `no_items`."""
    files = sorted(folder.rglob("*.jsonl"))
    if not files:
        raise Refused("no_items", f"{folder} has no *.jsonl", hint="give a folder of prompts or pairs")
    for file in files:
        for line in filter(str.strip, file.read_text("utf-8").splitlines()):
            yield json.loads(line)


def label_task(item: Mapping[str, Any], kind: str, seed: int) -> dict[str, Any]:
    """One task: what people see as text, and the messages to make a dataset row of again.

    Which answer stands left is drawn from the item itself: people prefer a side, and a resumed export must
    not move it. Raises: Refused `bad_item`.
    """
    messages = list(item.get("prompt") or item.get("messages") or ())
    answers = [item[key] for key in ("chosen", "rejected") if key in item] or list(item.get("answers") or ())
    draft: Any = ""
    if not item.get("prompt") and messages and messages[-1]["role"] == "assistant":
        draft = [messages.pop()]
    if not messages or (kind == "preference" and len(answers) != 2):
        needs = "prompt, chosen and rejected (or answers)" if kind == "preference" else "prompt or messages"
        raise Refused("bad_item", f"an item of {kind} needs {needs}", hint=f"it has {', '.join(item)}")
    data: dict[str, Any] = {"prompt": messages, "prompt_text": said(messages)}
    if kind == "preference":
        texts = [answer if isinstance(answer, str) else said(answer[-1:]) for answer in answers]
        key = hashlib.blake2b(f"{seed}{data}{texts}".encode(), digest_size=8).digest()
        data |= dict(zip(("left", "right"), texts if key[0] % 2 else texts[::-1], strict=True))
    else:
        data["draft"] = said(draft) if draft else ""
    return {"data": data}


def said(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as people read them: one alone as its text, several with who speaks."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _export(context: Context[Args]) -> int:
    args, folder = context.args, context.output("tasks")
    tasks = [label_task(item, args.kind, args.seed) for item in read_jsonl(context.input("items"))]
    random.Random(args.seed).shuffle(tasks)
    tasks = tasks[: args.max_items or None]
    write_json(folder / "tasks.json", [{"id": number, **made} for number, made in enumerate(tasks, 1)])
    view = PREFERENCE_VIEW if args.kind == "preference" else SFT_VIEW
    (folder / "labelling.xml").write_text(view, "utf-8")
    context.progress.write(step=1, total=1, tasks=len(tasks))
    context.metrics(tasks=len(tasks))
    return 0


# ---------------------------------------------------------------- import


class Judgement(msgspec.Struct, frozen=True):
    """What one person made of one item: a label to compare, and the answer that was written."""

    annotator: str
    label: str
    answer: str = ""


def judgements(labelled: Mapping[str, Any], kind: str) -> list[Judgement]:
    """The finished judgements of one exported task; a person's last one counts."""
    last: dict[str, Judgement] = {}
    for annotation in labelled.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        annotator = str(by.get("email") or by.get("id") if isinstance(by, dict) else by)
        values = {result["from_name"]: result["value"] for result in annotation.get("result") or ()}
        label, answer = _label(values, kind)
        if label:
            last[annotator] = Judgement(annotator, label, answer)
    return list(last.values())


def _label(values: Mapping[str, Mapping[str, Any]], kind: str) -> tuple[str, str]:
    if kind == "preference":
        chosen = values.get("tie", {}).get("choices") or [values.get("better", {}).get("selected", "")]
        return str(chosen[0]), ""
    answer = values.get("answer", {}).get("text") or ""
    text = answer if isinstance(answer, str) else "\n".join(answer)
    verdict = values.get("verdict", {}).get("choices") or (["good"] if text else [""])
    return str(verdict[0]), text.strip()


def row(
    data: Mapping[str, Any], judged: Sequence[Judgement], args: Args
) -> tuple[dict[str, Any] | None, str]:
    """(a dataset row, "") or (None, why there is none): what most of an item's judges say."""
    if len(judged) < args.min_annotators:
        return None, "too few annotators"
    label, votes = Counter(judgement.label for judgement in judged).most_common(1)[0]
    agreement = votes / len(judged)
    if agreement < args.min_agreement:
        return None, "no agreement"
    about = {"annotators": len(judged), "agreement": round(agreement, 4)}
    prompt = list(data["prompt"])
    if args.kind == "preference":
        if label not in ("left", "right"):
            return None, "no better one"
        other = "right" if label == "left" else "left"
        sides = {
            name: [{"role": "assistant", "content": data[side]}]
            for name, side in (("chosen", label), ("rejected", other))
        }
        return {"prompt": prompt, **sides, **about}, ""
    written = Counter(judgement.answer for judgement in judged if judgement.label == "good")
    answer = max(written, key=lambda text: written[text], default="") or data.get("draft", "")
    if label != "good" or not answer:
        return None, "no good answer"
    return {"messages": [*prompt, {"role": "assistant", "content": answer}], **about}, ""


def cohen_kappa(units: Iterable[Sequence[Judgement]]) -> float | None:
    """Mean of Cohen's kappa over all pairs of people, weighted by the items both judged; None without any.

    Source: J. Cohen, Educational and Psychological Measurement 20 (1960); the mean is Light's (1971).
    """
    both: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for judged in units:
        for one, other in combinations(sorted(judged, key=lambda judgement: judgement.annotator), 2):
            both.setdefault((one.annotator, other.annotator), []).append((one.label, other.label))
    total = weight = 0.0
    for labels in both.values():
        many = len(labels)
        observed = sum(one == other for one, other in labels) / many
        first, second = Counter(one for one, _ in labels), Counter(other for _, other in labels)
        expected = sum(first[label] * second[label] for label in first) / many**2
        total += many * (1.0 if expected == 1 else (observed - expected) / (1 - expected))
        weight += many
    return total / weight if weight else None


def krippendorff_alpha(units: Iterable[Sequence[Judgement]]) -> float | None:
    """Krippendorff's alpha for nominal labels, any number of people, missing judgements allowed; None where
    nothing can be compared.

    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C.
    """
    agree = 0.0
    totals: Counter[str] = Counter()
    for judged in units:
        if len(judged) < 2:
            continue
        counts = Counter(judgement.label for judgement in judged)
        totals += counts
        agree += sum(count * (count - 1) for count in counts.values()) / (len(judged) - 1)
    pairable = sum(totals.values())
    if not pairable:
        return None
    by_chance = sum(count * (count - 1) for count in totals.values()) / (pairable - 1)
    if by_chance == pairable:
        return 1.0
    return (agree - by_chance) / (pairable - by_chance)


def _exported(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise Refused("no_annotations", f"{folder} has no *.json", hint="export from Label Studio as JSON")
    labelled = [labelled for file in files for labelled in json.loads(file.read_text("utf-8"))]
    if not any(item.get("annotations") for item in labelled):
        raise Refused("no_annotations", "no task has an annotation", hint="export as JSON, not JSON-MIN")
    return labelled


def _is_held_out(made: Mapping[str, Any], ratio: float) -> bool:
    prompt = json.dumps(made.get("prompt") or made["messages"][:-1], ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest()) < ratio * 2**64


def _import(context: Context[Args]) -> int:
    args = context.args
    if not args.rights:
        raise Refused(
            "no_rights",
            "people's work needs terms of use",
            hint="--set rights='CC-BY-4.0, paid annotators, 2026'",
        )
    labelled, folder = _exported(context.input("labelled")), context.output("dataset")
    units = [judgements(item, args.kind) for item in labelled]
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    dropped: Counter[str] = Counter()
    for item, judged in zip(labelled, units, strict=True):
        made, why = row(item["data"], judged, args)
        if made is None:
            dropped[why] += 1
        else:
            rows[_is_held_out(made, args.held_out_ratio)].append(made)
    for is_held_out, name in ((False, "train"), (True, "held-out")):
        lines = (json.dumps(made, ensure_ascii=False) + "\n" for made in rows[is_held_out])
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    people = Counter(judgement.annotator for judged in units for judgement in judged)
    kappa, alpha = cohen_kappa(units), krippendorff_alpha(units)
    numbers = {
        "items": len(labelled),
        "train": len(rows[False]),
        "held_out": len(rows[True]),
        "annotators": len(people),
    }
    report = numbers | {
        "judgements": sum(people.values()),
        "judgements_by_annotator": sorted(people.values(), reverse=True),
        "labels": dict(sorted(Counter(judgement.label for judged in units for judgement in judged).items())),
        "cohen_kappa": kappa,
        "krippendorff_alpha": alpha,
        "dropped": dict(sorted(dropped.items())),
        "rights": args.rights,
    }
    write_json(folder / "report.json", report)
    write_json(
        folder / "suan.json",
        {"recipe": "annotate", "args": arguments(args), "rights": args.rights, "results": report},
    )
    context.progress.write(step=1, total=1, **{key: float(value) for key, value in numbers.items()})
    agreements = {"cohen_kappa": kappa, "krippendorff_alpha": alpha}
    context.metrics(**numbers, **{key: value for key, value in agreements.items() if value is not None})
    return 0


def main() -> int:
    return run_stage(
        "annotate", lambda context: (_export if context.args.action == "export" else _import)(context)
    )


if __name__ == "__main__":
    sys.exit(main())
