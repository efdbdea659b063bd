"""How the tests start a stage: the command a site runs, in an environment without a site's own variables."""

import json
import os
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY_MODEL = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "seq_len": 64,
    "batch_rows": 8,
    "steps": 40,
    "eval_every": 20,
    "eval_rows": 16,
}


def stage_command(stage: str, options: list[str], **args: Any) -> list[str]:
    sets = [text for key, value in args.items() for text in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", f"suan.recipes.{stage}", *options, *sets]


def environment(**extra: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SUAN_")}
    return kept | {"OMP_NUM_THREADS": "1", **extra}
