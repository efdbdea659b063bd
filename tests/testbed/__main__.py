"""`python tests/testbed`: the test bed in a world of its own, a story or a campaign of faults on it, a
summary.

Everything is in a process table and a network of its own: when this command ends, however it ends, the kernel
ends all of it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_INSIDE = "SUAN_BED_INSIDE"
_HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make testbed ARGS=…", description=__doc__)
    parser.add_argument("--faults", action="store_true", help="kill, cut, step, fill and muddle, and check")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="only these faults")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on standard output")
    parser.add_argument("--folder", type=Path, help="where to keep logs and state; it is made and stays")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    sys.path[:0] = [str(_HERE), str(_HERE.parent / "conformance")]
    if _INSIDE in os.environ:
        return inside(given)
    import world
    from bed import note

    if os.geteuid() == 0:
        world.bring_ray(note)
    if lacks := world.missing():
        print("the test bed cannot be set up here; it lacks:", *lacks, sep="\n  ", file=sys.stderr)
        return 2
    return outside()


def outside() -> int:
    """Runs this command again in namespaces of its own, and waits for it."""
    from machines import end_with_parent

    namespaces = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen(
        [*namespaces, sys.executable, str(_HERE), *sys.argv[1:]],
        env={**os.environ, _INSIDE: "1"},
        preexec_fn=end_with_parent,
    )
    asked = 0

    def end(number: int, _: object) -> None:
        """Ctrl-C reaches the bed by itself, which ends in order; asked a third time, at once."""
        nonlocal asked
        asked += 1
        if asked > 2 or number == signal.SIGTERM:
            process.kill()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    return process.wait()


def inside(given: argparse.Namespace) -> int:
    from bed import note, standing

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
    began_s = time.monotonic()
    if given.folder:
        given.folder.mkdir(parents=True)
        given.folder.chmod(0o755)
    summary: dict[str, Any] = {"wrong": ["it was interrupted"]}
    try:
        with standing(note, given.folder) as bed:
            summary = play(bed, given)
    except KeyboardInterrupt:
        note("interrupted; everything has been stopped")
        return 130
    summary["whole_s"] = round(time.monotonic() - began_s, 1)
    note(text(summary))
    if given.json:
        print(json.dumps(summary, ensure_ascii=False, indent=2))
    return 1 if summary["wrong"] else 0


def play(bed: Any, given: argparse.Namespace) -> dict[str, Any]:
    if given.faults:
        from faults import campaign

        return campaign(bed, tuple(given.only))
    from story import Poet

    return Poet(bed).run()


def text(summary: dict[str, Any]) -> str:
    """The summary for people."""
    from suan.doors.cli import render
    from suan.doors.cli.quickstart.report import summary_text

    lines = []
    if "stages" in summary:
        lines.append(summary_text({"restarts": 0, **summary}))
    if partition := summary.get("partition"):
        lines.append(
            f"partition: {partition['first_site']} cut off while it trained, "
            f"{partition['cut_frames']} frames lost; it had stopped its run after "
            f"{partition['silent_fence_s']} s, "
            f"the job ran again at {partition['second_site']} after {partition['again_s']} s"
        )
        lines.append(f"the model, served where nobody can dial, answered: {partition['answer'][:60]!r}")
    if faults := summary.get("faults"):
        columns = ("count", "jobs", "runs", "took_s")
        rows = [(name, *(found[column] for column in columns)) for name, found in faults.items()]
        headings = ("fault", "times", "jobs", "runs", "seconds")
        lines.append(render.table(headings, rows, right="times jobs runs seconds"))
    wrong = summary["wrong"]
    lines.append("\n".join(f"WRONG: {line}" for line in wrong) if wrong else "all checks hold")
    lines.append(f"{summary['whole_s']:.0f} s in all, setting up and taking down included")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
