"""One run's supervisor by itself: what it leaves in the run's folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

from suan.engines import supervise


def test_a_run_that_is_stopped_before_it_starts_leaves_no_secrets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / supervise.WAKE)
    order = {"env": {"TOKEN": "hunter2"}, "nodes": [], "memory_bytes": 0}
    (tmp_path / supervise.ORDER).write_text(json.dumps(order))
    (tmp_path / supervise.STOP).write_text(json.dumps({"deadline_s": 0.0}))
    subprocess.run([sys.executable, "-I", "-S", supervise.__file__, str(tmp_path)], check=True, timeout=20)
    assert json.loads((tmp_path / supervise.EXIT).read_text())["cause"] == "stopped"
    assert not [path for path in tmp_path.iterdir() if path.is_file() and "hunter2" in path.read_text()]
