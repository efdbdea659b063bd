"""Prints engines.md from what the conformance suite found and from the limits that engines declare:

make test ARGS=tests/conformance && python docs/reference/make_engines.py > docs/reference/engines.md
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from suan.engines.table import ENGINES, limits_of

FOUND = Path(__file__).parents[2] / ".pytest_cache" / "d" / "conformance"
HEAD = """# Engines

What each engine was seen to do, and what it does not do. The first table is made from the outcome of the
conformance suite (`tests/conformance`), which runs the same tests against every engine: real daemons of
Slurm, Ray and Kubernetes where they are found, never an imitation of them. This page is made by
`docs/reference/make_engines.py` and claims nothing that did not run.

*yes (n)*: all n tests passed; *yes (m of n)*: the others ask for what the engine does not have, as all do at
*–*, and the last table says why. *fails*: at least one did not pass. *not run*: no daemons were there when
this page was made.
The simulated engine, on which `suan simulate` runs, starts no processes.
"""
# capability -> the tests that show it
CAPABILITIES: dict[str, tuple[str, ...]] = {
    "A launch told twice, or whose answer was lost, is one run": (
        "test_launch_twice_is_one_run",
        "test_launch_after_restart_is_still_one_run",
        "test_agents_killed_while_launching_start_every_run_once",
        "test_a_lost_answer_is_one_job",
    ),
    "A new agent finds what the old one started": (
        "test_new_engine_finds_running_and_ended_runs",
        "test_an_accepted_run_starts_with_the_next_engine",
        "test_stop_survives_an_agent_restart",
    ),
    "Ended runs are remembered until they are to be forgotten": ("test_forget_drops_ended_runs_only",),
    "Ids of any spelling": ("test_ids_of_any_spelling",),
    "A thousand runs listed within a second": ("test_thousand_runs_listed_in_a_second",),
    "Stop: of the unknown, before the start, confirmed": (
        "test_stop_of_the_unknown_and_of_the_ended",
        "test_stop_is_told_apart_and_confirmed",
        "test_stop_before_it_has_started",
    ),
    "A grace to save, then the end": (
        "test_stop_lets_a_run_finish_within_its_grace",
        "test_a_child_finishes_after_its_shell_has_gone",
        "test_a_run_that_ignores_sigterm_is_killed_after_its_grace",
    ),
    "Nothing of a run is left behind": (
        "test_a_stop_reaches_daemons_in_sessions_of_their_own",
        "test_what_a_run_leaves_in_the_background_ends_with_it",
        "test_a_killed_supervisor_is_a_lost_run_without_orphans",
    ),
    "A site that loses the grid stops its runs by itself": (
        "test_a_lease_that_ends_fences_the_runs",
        "test_a_renewed_lease_keeps_the_runs",
    ),
    "Exit codes, signals and what could not start are told apart": (
        "test_exit_codes",
        "test_what_cannot_start_says_why",
        "test_one_node_failing_ends_the_others_with_its_code",
    ),
    "Limits of time and memory": ("test_max_duration", "test_memory_limit"),
    "Use is metered": ("test_usage_is_metered",),
    "Devices are promised once": (
        "test_no_devices_is_said_and_leaves_nothing",
        "test_a_stopping_run_keeps_its_devices",
    ),
    "Device indices are known and disjoint": ("test_devices_are_disjoint_after_a_restart_too",),
    "OpenMP is told as many threads as the run has cores": ("test_cpu_devices_are_pinned",),
    "Several nodes know their ranks and meet": ("test_two_nodes_know_their_ranks_and_meet",),
    "1 MiB of environment and secrets travel, and are not left on disk": (
        "test_environment_travels_whole",
        "test_secrets_are_not_left_on_disk",
    ),
    "Services are given a port, and answer the agent where they run": (
        "test_a_service_is_given_a_port_and_says_so",
    ),
    "Logs by offset, 10 MiB of them, to the last word": (
        "test_log_of_the_unknown_is_empty",
        "test_ten_mebibytes_of_log_by_offsets",
        "test_the_tail_of_the_log_survives_a_kill",
    ),
}
REST = "All other tests of the suite"
NO_DAEMON = "cannot be started"


def found() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """(engine -> test -> its newest case, engine -> what it ran against)"""
    cases: dict[str, dict[str, Any]] = {}
    against: dict[str, str] = {}
    for path in sorted(FOUND.glob("*.json")):
        kept = json.loads(path.read_text("utf-8"))
        against |= kept.get("against", {})
        for engine, tests in kept["cases"].items():
            newest = cases.setdefault(engine, {})
            for test, case in tests.items():
                if test not in newest or case["at_s"] > newest[test]["at_s"]:
                    newest[test] = case
    return cases, against


def cell(cases: dict[str, Any], tests: tuple[str, ...]) -> str:
    """What was seen of one capability on one engine."""
    seen = [cases[test] for test in tests if test in cases]
    outcomes = [case["outcome"] for case in seen]
    if "failed" in outcomes:
        return f"**fails** ({outcomes.count('failed')} of {len(seen)})"
    if passed := outcomes.count("passed"):
        return f"yes ({passed})" if passed == len(seen) else f"yes ({passed} of {len(seen)})"
    if not seen or any(NO_DAEMON in case["why"] for case in seen):
        return "not run"
    return "–"


def table(engines: list[str], cases: dict[str, dict[str, Any]]) -> list[str]:
    listed = {test for tests in CAPABILITIES.values() for test in tests}
    others = tuple(sorted({test for of_one in cases.values() for test in of_one} - listed))
    lines = [f"| capability | {' | '.join(engines)} |", "| --- |" + " --- |" * len(engines)]
    rest = {REST: others} if others else {}
    for capability, tests in {**CAPABILITIES, **rest}.items():
        cells = [cell(cases.get(engine, {}), tests) for engine in engines]
        lines.append(f"| {capability} | {' | '.join(cells)} |")
    return lines


def ran(engine: str, cases: dict[str, Any], against: dict[str, str]) -> str:
    passed = [case["at_s"] for case in cases.values() if case["outcome"] == "passed"]
    if not passed:
        why = next((case["why"] for case in cases.values() if NO_DAEMON in case["why"]), "no test of it ran")
        return f"| {engine} | not run: {why.partition(NO_DAEMON + ': ')[2] or why} | – |"
    days = [datetime.datetime.fromtimestamp(at_s, datetime.UTC).date().isoformat() for at_s in sorted(passed)]
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return f"| {engine} | {against.get(engine, '–')} | {when} |"


def main() -> int:
    cases, against = found()
    if not cases:
        print("there is no outcome of the suite: make test ARGS=tests/conformance", file=sys.stderr)
        return 1
    engines = [*ENGINES, *(engine for engine in sorted(cases) if engine not in ENGINES)]
    print(HEAD)
    print("\n".join(table(engines, cases)))
    print("\n## What it ran against\n\n| engine | version | when |\n| --- | --- | --- |")
    print("\n".join(ran(engine, cases.get(engine, {}), against) for engine in engines))
    print("\n## What engines do not do\n\n*Not yet* may change; *never* is how the system below is.\n")
    print("| engine | what | when | why |\n| --- | --- | --- | --- |")
    for engine in ENGINES:
        for limit in limits_of(engine):
            print(f"| {engine} | {limit.capability} | {limit.when} | {limit.why} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
