"""The folder that is the contract between stages: config, weights, tokenizer, chat template, card, manifest.

Knows how to make a decoder from a recipe's numbers and how to write one down. Does not train.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from suan.recipes.runtime import write_json

CARD = """---
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A {family} decoder with {parameters:.2f} M parameters, trained from random weights by `suan`
(recipe `pretrain`).

| | |
| --- | --- |
| training tokens | {tokens:,} |
| final validation loss | {val_loss:.4f} nats a token, {bits_per_byte:.4f} bits a byte |
| context | {seq_len} tokens |

Chat format: ChatML (`chat_template.jinja`). What went in, and every setting, is in `manifest.json`.
A small model: it has learnt form, not facts.
"""


def build_model(args: Any, vocab_size: int, tokenizer: Any) -> Any:
    """A decoder with fresh random weights, from transformers' own configuration of the family."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    shared = {
        "vocab_size": vocab_size,
        "hidden_size": args.hidden_size,
        "intermediate_size": args.intermediate_size or 3 * args.hidden_size,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "head_dim": args.hidden_size // args.heads,
        "max_position_embeddings": 4 * args.seq_len,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": False,
    }
    config = {"qwen3": Qwen3Config, "llama": LlamaConfig}[args.family](**shared)
    return AutoModelForCausalLM.from_config(config)


def export(folder: Path, model: Any, tokenizer: Any, manifest: dict[str, Any]) -> None:
    """Writes the model so that transformers, vLLM and lm-eval read it as it is."""
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
    results, args = manifest["results"], manifest["args"]
    card = CARD.format(
        name=manifest["name"],
        family=args["family"],
        parameters=manifest["parameters"] / 1e6,
        seq_len=args["seq_len"],
        tokens=int(results["tokens"]),
        val_loss=results["val_loss"],
        bits_per_byte=results["val_bits_per_byte"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_json(folder / "manifest.json", manifest)


def versions(*packages: str) -> dict[str, str]:
    """Version of Python and of each package, "" for one that is not installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found
