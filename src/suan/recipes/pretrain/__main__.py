"""`python -m suan.recipes.pretrain`."""

import sys

from suan.recipes.pretrain.loop import body
from suan.recipes.runtime import run_stage


def main() -> int:
    return run_stage("pretrain", body)


if __name__ == "__main__":
    sys.exit(main())
