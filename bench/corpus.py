# ruff: noqa: E501  (the scripts of the peers)
"""The corpus stage beside datatrove and data-juicer: MB of raw pages a CPU-second, on the same work.

    python bench/corpus.py [--mb 8] [--input DIR] [--json]

The work: JSON lines of raw pages in; text mended, filtered for quality and repetition, near duplicates gone by
MinHash; JSON lines out. The peers live in environments of their own, named by `SUAN_DATATROVE_PYTHON` and
`SUAN_DATA_JUICER_PYTHON` (or `--datatrove`, `--data-juicer`); without one the stage is measured alone.
CPU-seconds are user and system time of the whole process and its children, start-up included. data-juicer
installs what it misses while it runs; what this work needs is `pip install py-data-juicer aiohttp ftfy scipy
ray torch` into its environment, and nothing is fetched during the measurement.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from report import Result, show

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples" / "webpages"))

DATATROVE = """
import multiprocessing, sys
multiprocessing.set_start_method("fork")
from datatrove.executor import LocalPipelineExecutor as Run
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import GopherRepetitionFilter, LambdaFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
raw, out = sys.argv[1:]
def config(): return MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
def run(name, make, tasks=1):  # in a process of its own: a tokenizer that was used cannot be copied by the next executor
    step = multiprocessing.Process(target=lambda: Run(make(), tasks=tasks, workers=1, logging_dir=out + "/logs/" + name).run())
    step.start(); step.join(); assert step.exitcode == 0, name
run("clean", lambda: [JsonlReader(raw), FTFYFormatter(), LambdaFilter(lambda document: len(document.text) >= 80),
    GopherRepetitionFilter(language="cmn", top_n_grams=((2, 0.9),), dup_n_grams=((5, 0.9),)),
    JsonlWriter(out + "/clean", compression=None)])
run("signatures", lambda: [JsonlReader(out + "/clean"),
    MinhashDedupSignature(output_folder=out + "/s", config=config(), language="cmn")])
run("buckets", lambda: [MinhashDedupBuckets(input_folder=out + "/s", output_folder=out + "/b", config=config())], tasks=14)
run("cluster", lambda: [MinhashDedupCluster(input_folder=out + "/b", output_folder=out + "/c", config=config())])
run("filter", lambda: [JsonlReader(out + "/clean"), MinhashDedupFilter(input_folder=out + "/c"),
    JsonlWriter(out + "/done", compression=None)])
"""
DATA_JUICER = """
import json, sys
from data_juicer.config import init_configs
from data_juicer.core import DefaultExecutor
raw, out = sys.argv[1:]
open(out + "/recipe.yaml", "w").write(json.dumps({
    "dataset_path": raw + "/pages.jsonl", "export_path": out + "/done.jsonl", "np": 1, "text_keys": "text",
    "process": [{"fix_unicode_mapper": {}}, {"text_length_filter": {"min_len": 80}},
                {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.5}},
                {"document_minhash_deduplicator": {"tokenization": "character", "window_size": 5}}]}))
DefaultExecutor(init_configs(["--config", out + "/recipe.yaml"])).run()
"""


def pages(n_bytes: int) -> Iterator[str]:
    """Raw pages: sentences of the example's articles in new orders, hacked; every tenth page nearly again."""
    from articles import ARTICLES
    from hacked import hack
    from noise import DEVELOPMENT

    draw = random.Random(3)
    sentences = [
        part + "。" for _, texts in ARTICLES.values() for text in texts for part in text.split("。") if part
    ]
    made: list[str] = []
    while n_bytes > 0:
        paragraphs = ["".join(draw.sample(sentences, 5)) for _ in range(draw.randint(3, 14))]
        again = bool(made) and draw.random() < 0.1
        raw = draw.choice(made[-50:]) + "。" if again else hack(draw, DEVELOPMENT, "", paragraphs).raw
        made.append(raw)
        n_bytes -= len(raw.encode())
        yield raw


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command and all it starts; ends the benchmark when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    environment |= {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    done = subprocess.run(
        command, check=False, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr.decode()[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(options: argparse.Namespace, folder: Path) -> list[Result]:
    raw = options.input
    if raw is None:
        raw = folder / "raw"
        raw.mkdir()
        with (raw / "pages.jsonl").open("w", encoding="utf-8") as out:
            for number, text in enumerate(pages(int(options.mb * 1e6))):
                out.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
    mb = sum(file.stat().st_size for file in raw.iterdir()) / 1e6
    stage = [
        sys.executable,
        "-m",
        "suan.recipes.corpus",
        "--input",
        str(raw),
        "--output",
        str(folder / "suan"),
    ]
    ours = mb / cpu_seconds(stage)
    peers = {}
    for name, python, script in (
        ("datatrove", options.datatrove, DATATROVE),
        ("data-juicer", options.data_juicer, DATA_JUICER),
    ):
        if python:
            (folder / name).mkdir()
            file = folder / f"run-{name}.py"
            file.write_text(script, "utf-8")
            peers[name] = mb / cpu_seconds([python, str(file), str(raw), str(folder / name)])
            print(f"{name}: {peers[name]:.3f} MB a CPU-second", file=sys.stderr)
    best = max(peers, key=lambda name: peers[name], default="")
    limit, source = (peers[best], f"{best}, same run") if best else (0.0, "no peer's environment was named")
    ratio = ours / peers[best] if best else 1.0
    return [
        Result(
            f"corpus, {mb:.1f} MB of raw pages",
            ours,
            "MB/CPU-s",
            limit,
            source,
            ratio,
            best or "itself",
            True,
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=float, default=8.0)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--datatrove", default=os.environ.get("SUAN_DATATROVE_PYTHON", ""))
    parser.add_argument("--data-juicer", default=os.environ.get("SUAN_DATA_JUICER_PYTHON", ""))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show("corpus", measure(options, Path(folder)))


if __name__ == "__main__":
    main()
