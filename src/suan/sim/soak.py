"""`python -m suan.sim.soak`: thousands of worlds drawn from seeds, each played with its faults and without
them, in all processors; a table of what happened, and for what went wrong one command that repeats it.

Prints and counts. What one seed does is `soak_play`'s matter.
"""

import argparse
import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from suan.grid import fact as f
from suan.grid.artifact import Artifact
from suan.sim.run import Simulation
from suan.sim.soak_play import Kept, Outcome, drawn_and_played, play, smallest
from suan.sim.worlds import FAULT_KINDS, drawn

KINDS = (*FAULT_KINDS, "reordered_reports")
ENOUGH_SEEDS = 200  # from so many on, each kind of fault must have happened
_AGAIN_EVERY = 20  # of so many seeds one is played again, under another PYTHONHASHSEED
_SHOWN = 5  # failing seeds that are made small and shown at length
_TELL_EVERY_S = 10
_TRACE_LINES = 60
_ID = re.compile(r"\b(j\d+)(?:-r\d+)?\b")


def soak(seeds: Sequence[int], processes: int) -> int:
    """Plays the seeds and prints what came of them; 0 when all is well."""
    began_s = told_s = time.monotonic()
    fired, counts, failed = Counter[str](), Counter[str](), list[Outcome]()
    digests: dict[int, str] = {}
    in_seeds: Counter[str] = Counter()
    for outcome in _played(seeds, processes, "1"):
        fired.update(outcome.fired)
        in_seeds.update(outcome.fired.keys())
        counts.update(outcome.counts)
        digests[outcome.seed] = outcome.digest
        if outcome.wrong:
            failed.append(outcome)
            print(f"seed {outcome.seed}: {outcome.wrong[0]}", flush=True)
        if time.monotonic() - told_s > _TELL_EVERY_S:
            told_s = time.monotonic()
            pace = len(digests) / (told_s - began_s)
            print(f"{len(digests):,} of {len(seeds):,} seeds, {len(failed)} failed, {pace:.1f}/s", flush=True)
    again = [seed for seed in seeds if seed % _AGAIN_EVERY == 0]
    differ = [one.seed for one in _played(again, processes, "2") if one.digest != digests[one.seed]]
    _table(fired, in_seeds, counts)
    print(f"{len(seeds):,} seeds in {time.monotonic() - began_s:.0f} s, {len(failed)} failed; {len(again)}")
    print(f"  of them again under another PYTHONHASHSEED, {len(differ)} differ: {differ[:10]}")
    for outcome in failed[:_SHOWN]:
        _show(outcome.seed, smallest(drawn(outcome.seed), outcome.wrong))
    never = [kind for kind in KINDS if not fired[kind]] if len(seeds) >= ENOUGH_SEEDS else []
    if never:
        print(f"these faults never happened: {', '.join(never)}")
    return 1 if failed or differ or never else 0


def _played(seeds: Sequence[int], processes: int, hash_seed: str) -> Iterator[Outcome]:
    """As they come. Fresh interpreters, so that the hash seed holds in them."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = hash_seed
    try:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            yield from pool.imap_unordered(drawn_and_played, seeds, chunksize=4)
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before


def _table(fired: Counter[str], in_seeds: Counter[str], counts: Counter[str]) -> None:
    print(f"\n{'fault':<22}{'times':>12}{'seeds':>10}")
    for kind in sorted(KINDS):
        print(f"{kind:<22}{fired[kind]:>12,}{in_seeds[kind]:>10,}")
    print(f"\n{'what went on':<22}{'times':>12}")
    for what, times in sorted(counts.items()):
        print(f"{what:<22}{times:>12,}")
    print()


# ---------------------------------------------------------------- one seed


def command(seed: int, kept: Kept) -> str:
    """What repeats it."""
    parts = [f"python -m suan.sim.soak --seed {seed}"]
    for option, numbers in (("--jobs", kept.jobs), ("--strikes", kept.strikes)):
        if numbers is not None:
            parts.append(f"{option} {','.join(map(str, numbers)) or 'none'}")
    return " ".join(parts)


def _show(seed: int, kept: Kept) -> int:
    """Plays one seed and prints what led to what is wrong; 0 when nothing is."""
    world = kept.of(drawn(seed))
    outcome, run = play(world)
    print(f"\nrepeat: {command(seed, kept)}")
    policy = world.policy.policy
    print(
        f"policy {world.policy.name}, lease {policy.lease_s} s, sites {', '.join(run.sites) if run else ''}"
    )
    for strike in world.strikes:
        at_s = strike.at_s - world.world.start_s
        print(f"  +{at_s:<7} {strike.kind} at {strike.site} for {strike.for_s} s, draw {strike.draw:.3f}")
    for what in outcome.wrong:
        print(f"  wrong: {what}")
    if run is not None:
        print("\n".join(trace(run, outcome.wrong)))
    print(f"digest {outcome.digest}, fired {outcome.fired}")
    return 1 if outcome.wrong else 0


def trace(run: Simulation, wrong: Sequence[str]) -> list[str]:
    """The facts about the jobs that the complaints name, and about sites; all facts when they name none."""
    jobs = {match.group(1) for what in wrong for match in _ID.finditer(what)}
    lines = []
    for sequence, fact in run.journal.read():
        about = _ID.findall(" ".join(_words(fact).values()))
        is_told = not jobs or bool(jobs.intersection(about))
        if is_told or isinstance(fact, f.GridStarted | f.SiteSilent | f.SiteFenced | f.SiteReturned):
            told = " ".join(f"{name}={value}" for name, value in _words(fact).items())
            lines.append(f"  {sequence:>5} +{fact.at_s - run.world.start_s:<7} {type(fact).__name__} {told}")
    left_out = len(lines) - _TRACE_LINES
    return lines if left_out <= 0 else [*lines[:_TRACE_LINES], f"  … and {left_out} more"]


def _words(fact: f.Fact) -> dict[str, str]:
    """What a line says of a fact: its short fields, and of the long ones what matters."""
    said: dict[str, str] = {}
    for name, value in msgspec.structs.asdict(fact).items():
        match name, value:
            case "at_s" | "considered" | "inputs" | "usage" | "metrics" | "clearing" | "idempotency_key", _:
                continue
            case "task", task:
                said["task"] = f"{task.name}/{task.priority}"
            case "bid", bid:
                said["bid"] = f"{bid.site}/{bid.pool}:{bid.devices}"
            case "artifact", Artifact() as artifact:
                said["artifact"], said["run"] = artifact.id, artifact.run
            case "entries", entries:
                said["movement"], said["paid"] = entries[-1].movement, str(entries[-1].amount_microyuan)
            case _, value if value not in (None, "", (), {}):
                said[name] = str(value)[:80]
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m suan.sim.soak", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="this one alone, at length")
    parser.add_argument("--jobs", type=_numbers, help="of its submissions only these, by number")
    parser.add_argument("--strikes", type=_numbers, help="of its faults only these, by number")
    asked: Any = parser.parse_args(arguments)
    if asked.seed is not None:
        return _show(asked.seed, Kept(jobs=asked.jobs, strikes=asked.strikes))
    return soak(range(asked.first, asked.first + asked.seeds), asked.processes)


def _numbers(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
