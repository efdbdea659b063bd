"""What does it cost to start the command line?

Limit: 0.15 CPU-seconds for `suan --version` and for `suan jobs`, below what people notice as a wait. Beside
it, in the same run: `python -c pass`. CPU time of the child, the least of several runs: the wall clock of a
shared machine is noise.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Result, show

LIMIT_CPU_S = 0.15
RUNS = 9
SUAN = Path(sys.executable).with_name("suan")


def cpu_s(command: list[str], env: dict[str, str]) -> float:
    """The least user and system time of the command over several runs."""
    seen = []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=env, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seen.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seen)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "SUAN_CONFIG": f"{folder}/client.json"}
        subprocess.run(
            [SUAN, "up", "--state", f"{folder}/grid", "--port", "0", "--detach"],
            env=env,
            check=True,
            capture_output=True,
        )
        try:
            bare = cpu_s([sys.executable, "-c", "pass"], env)
            results = []
            for verb in ("--version", "jobs"):
                took = cpu_s([str(SUAN), verb], env)
                what = f"suan {verb}"
                results.append(
                    Result(what, took, "CPU-s", LIMIT_CPU_S, "project target", took / bare, "python -c pass")
                )
        finally:
            subprocess.run(
                [SUAN, "down", "--state", f"{folder}/grid"], env=env, check=True, capture_output=True
            )
    show("cli", results)


if __name__ == "__main__":
    main()
