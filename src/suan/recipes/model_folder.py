"""The folder that is the contract between stages: config, weights, tokenizer, chat template, card, manifest.

Knows how to write one down, and the card (`README.md`) and manifest (`suan.json`) that any stage puts beside
what it saved. Does not train.
"""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from suan.recipes.runtime import arguments, write_json

MANIFEST = "suan.json"
PACKAGES = ("suan", "torch", "transformers", "tokenizers")
CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
---
# {name}

{about}

| | |
| --- | --- |
{table}

Made by `suan` in these steps: {stages}. What went in, every setting and every version is in `suan.json`.
"""


def export(folder: Path, model: Any, tokenizer: Any) -> None:
    """Writes model and tokenizer so that transformers, vLLM and lm-eval read them as they are."""
    from transformers import GenerationConfig

    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        max_new_tokens=128,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def describe(
    folder: Path,
    *,
    recipe: str,
    args: msgspec.Struct,
    inputs: Mapping[str, Path],
    results: Mapping[str, float],
    about: str,
    packages: tuple[str, ...] = PACKAGES,
) -> None:
    """Writes card and manifest beside a model that a stage saved into `folder`.

    `about` is the card's first sentence; `results` are its table. The manifest of an input called `model` or
    `base` is kept inside, so that a model tells all that it came from.
    """
    base = next((read_manifest(inputs[name]) for name in ("model", "base") if name in inputs), {})
    manifest = {
        "name": os.environ.get("SUAN_JOB_ID") or folder.resolve().name,
        "recipe": recipe,
        "args": arguments(args),
        "seed": getattr(args, "seed", None),
        "inputs": {name: files(path) for name, path in sorted(inputs.items())},
        "results": dict(results),
        "versions": versions(*packages),
        "from": base,
    }
    write_json(folder / MANIFEST, manifest)
    stages, maker = [recipe], base
    while maker:
        stages, maker = [maker["recipe"], *stages], maker.get("from")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    scores = any(name.endswith("SequenceClassification") for name in config.get("architectures") or ())
    card = CARD.format(
        name=manifest["name"],
        about=about,
        table="\n".join(f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in results.items()),
        stages=" → ".join(stages),
        pipeline="text-classification" if scores else "text-generation",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder; empty for a model that was made elsewhere."""
    file = folder / MANIFEST
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def files(folder: Path) -> dict[str, int]:
    """Name and size in bytes of each file of a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def versions(*packages: str) -> dict[str, str]:
    """Version of Python and of each package, "" for one that is not installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
