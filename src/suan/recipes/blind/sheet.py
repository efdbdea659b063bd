"""The sheet that judges fill in, and its key. Knows items and files; neither models nor statistics.

A prompt appears once, with the text of a person or of the model: nobody can compare two texts of one prompt.
Judges also say whether they knew a text, because knowing is not telling.
"""

import csv
import hashlib
import html
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from suan.grid.error import Refused

HUMAN, MACHINE = "human", "machine"
_COLUMNS = ("sheet", "item", "prompt", "text", "answer", "known")


class Item(NamedTuple):
    """One text to judge; `source` is who wrote it."""

    prompt: str
    text: str
    source: str


def arrange(pairs: list[tuple[str, str]], count: int, seed: int) -> tuple[list[tuple[str, str]], list[str]]:
    """(prompts with people's texts in the order of the sheet, who is to have written each).

    Raises: Refused `corpus_too_small`.
    """
    count -= count % 2
    unique = list(dict(pairs).items())
    if len(unique) < count:
        raise Refused(
            "corpus_too_small",
            f"{count} items need as many held-out prompts with answers; there are {len(unique)}",
            hint="lower items, or raise the corpus's valid_ratio",
        )
    draw = random.Random(seed)
    chosen = draw.sample(unique, count)
    sources = [HUMAN, MACHINE] * (count // 2)
    draw.shuffle(sources)
    return chosen, sources


def sheet_id(items: list[Item]) -> str:
    """Changes with every text of the sheet; says nothing about who wrote which."""
    content = json.dumps([(item.prompt, item.text) for item in items], ensure_ascii=False)
    return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


def write_sheet(folder: Path, items: list[Item]) -> None:
    """`items.csv` to fill in with a spreadsheet, and `items.html` that makes the same file in a browser."""
    sheet = sheet_id(items)
    rows = [(sheet, number, item.prompt, item.text, "", "") for number, item in enumerate(items, 1)]
    _write_csv(folder / "items.csv", _COLUMNS, rows)
    cards = "\n".join(_card(number, item) for number, item in enumerate(items, 1))
    page = _PAGE.replace("@SHEET", sheet).replace("@COUNT", str(len(items))).replace("@CARDS", cards)
    (folder / "items.html").write_text(page, encoding="utf-8")


def write_key(folder: Path, items: list[Item]) -> None:
    """`key.csv`: who wrote each item. Not for judges."""
    sheet = sheet_id(items)
    rows = [(sheet, number, item.source) for number, item in enumerate(items, 1)]
    _write_csv(folder / "key.csv", ("sheet", "item", "source"), rows)


class Answer(NamedTuple):
    """What one judge said of one item."""

    judge: str
    item: int
    said_machine: bool
    was_machine: bool
    known: bool


def read_answers(key: Path, answers: Path) -> list[Answer]:
    """All answers given, a file a judge; items left empty are left out.

    Raises: Refused `no_answers`, `wrong_sheet`, `bad_answer`.
    """
    with (key / "key.csv").open(encoding="utf-8-sig", newline="") as lines:
        source = {(row["sheet"], int(row["item"])): row["source"] for row in csv.DictReader(lines)}
    found = []
    for file in sorted(answers.glob("*.csv")):
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for row in csv.DictReader(lines):
                if not (said := row["answer"].strip().lower()):
                    continue
                at = (row["sheet"], int(row["item"]))
                if at not in source:
                    raise Refused("wrong_sheet", f"{file.name}: item {at[1]} is of sheet {at[0]}")
                if said not in (HUMAN, MACHINE):
                    raise Refused(
                        "bad_answer",
                        f"{file.name}: item {at[1]} says {said!r}",
                        hint=f"write {HUMAN} or {MACHINE}, or nothing",
                    )
                known = row.get("known", "").strip().lower() in ("yes", "1", "true")
                found.append(Answer(file.stem, at[1], said == MACHINE, source[at] == MACHINE, known))
    if not found:
        raise Refused("no_answers", f"{answers} has no answers", hint="put the judges' CSV files there")
    return found


def _write_csv(file: Path, columns: Iterable[str], rows: Iterable[tuple[object, ...]]) -> None:
    # With a byte-order mark spreadsheets read the characters right.
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(rows)


def _card(number: int, item: Item) -> str:
    def choice(name: str, value: str, label: str, kind: str = "radio") -> str:
        return f'<label><input type="{kind}" name="{name}{number}" value="{value}"> {label}</label>'

    answers = choice("answer", HUMAN, "人写的 a person") + choice("answer", MACHINE, "机器写的 a machine")
    known = choice("known", "yes", "我以前读过 I knew this text", "checkbox")
    prompt = html.escape(item.prompt, quote=True)
    return (
        f'<section data-item="{number}" data-prompt="{prompt}"><h2>{number}. {prompt}</h2>'
        f"<pre>{html.escape(item.text)}</pre><p>{answers}</p><p>{known}</p></section>"
    )


_PAGE = """<!doctype html>
<html lang="zh"><meta charset="utf-8"><title>人还是机器？ Human or machine?</title>
<style>
body { font: 18px/1.7 serif; max-width: 40em; margin: 2em auto; padding: 0 1em; }
section { border-top: 1px solid #ccc; } pre { font: inherit; white-space: pre-wrap; margin-left: 2em; }
label { margin-right: 1.5em; } h2 { font-size: 1em; }
</style>
<h1>人还是机器？ Human or machine?</h1>
<p>@COUNT 篇，每篇独立判断；不要查资料。 Judge each text on its own, and look nothing up.</p>
@CARDS
<p><button id="save">保存 Save answers.csv</button></p>
<script>
document.getElementById("save").onclick = () => {
  const quoted = text => '"' + text.replaceAll('"', '""') + '"';
  const rows = [["sheet", "item", "prompt", "text", "answer", "known"]];
  for (const card of document.querySelectorAll("section")) {
    const said = card.querySelector("input[type=radio]:checked");
    const known = card.querySelector("input[type=checkbox]").checked ? "yes" : "";
    rows.push(["@SHEET", card.dataset.item, card.dataset.prompt, card.querySelector("pre").textContent,
               said ? said.value : "", known]);
  }
  const csv = "\\ufeff" + rows.map(row => row.map(quoted).join(",")).join("\\r\\n") + "\\r\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv], {type: "text/csv"}));
  link.download = "answers.csv";
  link.click();
};
</script></html>
"""
