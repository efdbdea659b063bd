"""The stage's run: `python -m suan.recipes.serve`."""

import os
import signal
import sys
import time
from pathlib import Path

from suan.grid.error import Refused
from suan.recipes.runtime import Context, run_stage
from suan.recipes.serve import Args, engines

POLL_S = 0.25


def _answers(port: int) -> bool:
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _watch(server: int, name: str, context: Context[Args]) -> None:
    """Says `ready` once the server answers; ends the server if it never does."""
    started_s = time.monotonic()
    while os.getppid() == server:
        if _answers(context.port):
            context.progress.write(phase="ready", served_model=name, seconds=time.monotonic() - started_s)
            return
        if time.monotonic() - started_s > context.args.ready_timeout_s:
            context.progress.write(phase="not ready in time", seconds=time.monotonic() - started_s)
            os.kill(server, signal.SIGTERM)
            return
        time.sleep(POLL_S)


def _stay_offline(scratch: Path) -> None:
    home = scratch / "hub"
    # Without a cache folder transformers' server answers 500 to some paths.
    (home / "hub").mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _model(context: Context[Args]) -> Path | None:
    if "model" not in context.inputs and (context.args.engine == "embeddings" or "index" in context.inputs):
        return None
    return context.input("model").resolve()


def _body(context: Context[Args]) -> int:  # noqa: RET503 - a plain engine takes the process over
    args, model = context.args, _model(context)
    retrieves, quotes = "index" in context.inputs, args.answers == "quote"
    if quotes and not retrieves:
        raise Refused("missing_input", "quotations come from an index", hint="give an input called index")
    name = "quote" if quotes else engines.choose(model, args)
    if not context.port:
        raise Refused("no_port", "there is no port to listen on", hint="set SUAN_PORT or give --port")
    _stay_offline(context.scratch)
    served = engines.served_name(name, model)
    context.progress.write(phase="starting", engine=name, served_model=served, port=context.port)
    server = os.getpid()
    # The server takes this process's place, so that the site's signals reach it; a child watches until it
    # answers. A server that knows nothing of that child would keep it as a zombie: ignored children leave
    # none.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _watch(server, served, context)
        os._exit(0)
    if retrieves:
        from suan.recipes.serve.front import run_front

        return run_front(context, model)
    argv = engines.command_line(name, model, context.port, args, host=context.host)
    os.execv(argv[0], argv)


def main() -> int:
    return run_stage("serve", _body)


if __name__ == "__main__":
    sys.exit(main())
