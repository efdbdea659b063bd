"""A model folder in another number format. Knows torchao and llama.cpp's converter; measures nothing."""

import contextlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from suan.grid.error import Refused
from suan.recipes.quantise import Args
from suan.recipes.tokenizer import QWEN2_SPLIT

GGUF_FILE = "model.gguf"


def convert(source: Path, target: Path, args: Args) -> None:
    """Writes the smaller model into `target`, with its tokenizer.

    Raises: Refused `not_installed`.
    """
    if args.method.startswith("gguf-"):
        _gguf(source, target, args.method.removeprefix("gguf-"))
        _copy(source, target, ("config.json", "generation_config.json"))
    else:
        _torchao(source, target, args)
    own = [
        file.name
        for file in source.iterdir()
        if file.is_file() and file.name.startswith(("tokenizer", "chat_template", "special_tokens", "vocab"))
    ]
    _copy(source, target, own)


def load(folder: Path) -> Any:
    """The model, ready to answer. A GGUF file is read by transformers, its weights as numbers again: what
    llama.cpp computes with them is the same up to the order of sums."""
    from transformers import AutoModelForCausalLM

    if (folder / GGUF_FILE).exists():
        from transformers import AutoConfig, GgufConfig

        return AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=GGUF_FILE,
            quantization_config=GgufConfig(dequantize=True),
            config=AutoConfig.from_pretrained(folder),  # its reader of GGUF misses Qwen3's width of heads
        ).eval()
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def _torchao(source: Path, target: Path, args: Args) -> None:
    _needs("torchao", "quantise")
    import torch
    from torchao.quantization import (
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
    )
    from transformers import AutoModelForCausalLM, TorchAoConfig

    cuda = torch.cuda.is_available()
    if args.method == "int8":
        config = Int8WeightOnlyConfig()
    elif cuda:
        config = Int4WeightOnlyConfig(group_size=args.group_size)
    else:  # the packed kernels are for accelerators: on a CPU four bits of meaning take eight of memory
        config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(args.group_size))
    model = AutoModelForCausalLM.from_pretrained(
        source,
        quantization_config=TorchAoConfig(config),
        device_map="cuda" if cuda else "cpu",
        dtype=torch.bfloat16 if cuda and args.method == "int4" else "auto",
    )
    model.save_pretrained(target)


def _gguf(source: Path, target: Path, kind: str) -> None:
    """llama.cpp's own converter, told which split rule the tokenizer has: it knows tokenizers by a hash of
    their output, and refuses one that was trained at home."""
    _needs("conversion", "quantise")
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(source, False)
    made = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    number = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}[kind]
    target.mkdir(parents=True, exist_ok=True)
    with _quiet():
        writer = made(source, number, target / GGUF_FILE)
        if _splits_like_qwen2(source):
            writer.get_vocab_base_pre = lambda tokenizer: "qwen2"
        writer.write()


def _splits_like_qwen2(source: Path) -> bool:
    rule = json.loads((source / "tokenizer.json").read_text("utf-8"))["pre_tokenizer"] or {}
    parts = rule.get("pretokenizers", [rule])
    return any(part.get("pattern", {}).get("Regex") == QWEN2_SPLIT for part in parts)


@contextlib.contextmanager
def _quiet() -> Any:
    import logging

    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _copy(source: Path, target: Path, names: Any) -> None:
    for name in names:
        if (source / name).exists() and not (target / name).exists():
            shutil.copy2(source / name, target / name)


def _needs(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Refused(
            "not_installed", f"{package} is not installed here", hint=f"pip install 'suan[{extra}]'"
        )
