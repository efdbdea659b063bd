"""corpus: raw records and noisy web pages in, clean text out, with an account of what was dropped.

    python -m suan.recipes.corpus --input DIR --output DIR

Reads JSON lines (pages as `text`, verse as `lines`), HTML and text, plain or gzip; an input called
`evaluation` is what models will be examined on, and is looked for rather than read. Writes `train-*` and
`valid` (text, source, lang, score, reasons), `report.json`, `report.html` and `suan.json`. Knows the
arguments and the task; the work is in the modules beside it. Does not know what trains on the result.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from suan.grid.job import Resources, Task
from suan.recipes.runtime import arguments, command, run_stage


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
    min_score: Annotated[
        float, Meta(ge=0, le=1, description="Pages that the quality classifier gives less are dropped.")
    ] = 0.2
    max_repetition: Annotated[
        float, Meta(ge=0, le=1, description="Part of a page's text that may repeat what stood in it before.")
    ] = 0.4
    mask_personal: Annotated[
        bool, Meta(description="Mask e-mail addresses, identity, card and phone numbers and IP addresses.")
    ] = True
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
        int, Meta(ge=2, description="A long line in so many different pages is boilerplate.")
    ] = 3
    evaluation_ngram: Annotated[
        int, Meta(ge=5, description="Chinese characters in a window that is compared with evaluation sets.")
    ] = 10
    evaluation_ratio: Annotated[
        float,
        Meta(gt=0, le=1, description="Documents that hold this part of an evaluation item are dropped."),
    ] = 0.5
    valid_ratio: Annotated[float, Meta(gt=0, lt=1, description="Part of the documents held out.")] = 0.02
    format: Annotated[Literal["jsonl", "parquet"], Meta(description="What the shards are written as.")] = (
        "jsonl"
    )
    part_mb: Annotated[
        float, Meta(gt=0, description="Raw megabytes that are cleaned, and resumed, at a time.")
    ] = 16.0
    engine: Annotated[
        Literal["local", "daft", "ray"],
        Meta(description="One process, Daft on all cores of a machine, or Daft on a Ray cluster."),
    ] = "local"


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


def main() -> int:
    from suan.recipes.corpus.run import body

    return run_stage("corpus", body)
