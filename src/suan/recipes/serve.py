"""serve: a model folder in, an OpenAI-compatible server on this node's port for as long as the run lasts.

Knows how to start `transformers serve` without a network and how to tell when it answers. The server takes
the model's path as its name and lists nothing under `/v1/models`: names, keys and usage are the gateway's
in front of it.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Priority, Replicas, Resources, Task
from suan.recipes.runtime import Context, arguments, command, run_stage

POLL_S = 0.25
CACHE_BLOCK_TOKENS = 32


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of serve."""

    device: Annotated[
        str, Meta(description="A torch device; auto takes an accelerator when there is one.")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Meta(description="Of the weights; auto: as they were saved."),
    ] = "auto"
    continuous_batching: Annotated[
        bool,
        Meta(
            description="Let requests join a running batch: four times the tokens at eight clients on a CPU."
        ),
    ] = True
    cache_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Tokens that all requests together keep in the cache; 0: as many as memory holds.",
        ),
    ] = 16_384
    batch_tokens: Annotated[int, Meta(ge=1, description="Tokens in one forward pass, prompts included.")] = (
        1024
    )
    ready_timeout_s: Annotated[
        float, Meta(gt=0, description="Give up if the server does not answer by then.")
    ] = 300.0


def task(args: Args) -> Task:
    """A service with one replica; the task file's `replicas` and `resources` say otherwise."""
    return Task(
        name="serve",
        recipe="serve",
        run=command("serve"),
        args=arguments(args),
        inputs={"model": "model:model"},
        resources=(Resources(cpus=1),),
        priority=Priority.ONLINE,
        replicas=Replicas(min=1, max=1),
    )


def server_command(model: Path, port: int, args: Args) -> list[str]:
    """The server's command line; it runs with the Python that runs this."""
    batching = ["--no-continuous-batching"]
    if args.continuous_batching:
        batching = ["--continuous-batching", "--cb-max-batch-tokens", str(args.batch_tokens)]
    if args.continuous_batching and args.cache_tokens:
        # Left alone the server fills all memory with cache at the first request: 40 s and 7 GB on a small
        # CPU node.
        blocks = -(-args.cache_tokens // CACHE_BLOCK_TOKENS)
        batching += ["--cb-block-size", str(CACHE_BLOCK_TOKENS), "--cb-num-blocks", str(blocks)]
    return [
        str(Path(sys.executable).with_name("transformers")),
        *("serve", str(model), *batching, "--device", args.device, "--dtype", args.dtype),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
    ]


def _answers(port: int) -> bool:
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _watch(server: int, model: Path, context: Context[Args]) -> None:
    """Says `ready` once the server answers; ends the server if it never does."""
    started_s = time.monotonic()
    while os.getppid() == server:
        if _answers(context.port):
            context.progress.write(
                phase="ready", served_model=str(model), seconds=time.monotonic() - started_s
            )
            return
        if time.monotonic() - started_s > context.args.ready_timeout_s:
            context.progress.write(phase="not ready in time", seconds=time.monotonic() - started_s)
            os.kill(server, signal.SIGTERM)
            return
        time.sleep(POLL_S)


def _body(context: Context[Args]) -> int:
    model = context.input("model").resolve()
    if not (model / "config.json").exists():
        raise Refused(
            "no_model", f"{model} has no config.json", hint="give a folder that the pretrain stage wrote"
        )
    if not context.port:
        raise Refused("no_port", "there is no port to listen on", hint="set SUAN_PORT or give --port")
    home = context.scratch / "hub"
    (home / "hub").mkdir(
        parents=True, exist_ok=True
    )  # without a cache folder the server answers 500 to some paths
    os.environ |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    context.progress.write(phase="starting", served_model=str(model), port=context.port)
    server = os.getpid()
    # The server takes this process's place, so that the site's signals reach it; a child watches until it
    # answers. A server that knows nothing of that child would keep it as a zombie: ignored children leave
    # none.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _watch(server, model, context)
        os._exit(0)
    argv = server_command(model, context.port, context.args)
    os.execv(argv[0], argv)


def main() -> int:
    return run_stage("serve", _body)


if __name__ == "__main__":
    sys.exit(main())
