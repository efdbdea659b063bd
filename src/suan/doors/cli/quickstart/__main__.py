"""`python -m suan.doors.cli.quickstart`: the verb of that name."""

import sys

from suan.doors.cli.main import run

sys.exit(run(["quickstart", *sys.argv[1:]]))
