"""A journal recorded by this version folds to the same end by every later one, and its plan stays empty.

`poet-v1.jsonl.gz` is the tiny pipeline of examples/poet on two sites: five jobs, data that moved, a bill.
"""

import gzip
from pathlib import Path

import pytest

from suan.grid.job import TERMINAL_PHASES, JobPhase
from suan.grid.state import State
from suan.journals.codec import decode
from suan.rules.decide import decide
from suan.rules.evolve import fold
from suan.rules.policy import Policy
from suan.rules.settle import bill

RECORDED = Path(__file__).parent / "poet-v1.jsonl.gz"


@pytest.fixture(scope="module")
def facts():
    lines = gzip.decompress(RECORDED.read_bytes()).splitlines()
    return [decode(line, number) for number, line in enumerate(lines, 1)]


@pytest.fixture(scope="module")
def state(facts) -> State:
    return fold(State(), facts)


def test_every_job_ended_once_and_as_recorded(state: State) -> None:
    ends = {job.task.name: job.phase for job in state.jobs.values()}
    assert ends == {
        "corpus": JobPhase.SUCCEEDED,
        "tokenizer": JobPhase.SUCCEEDED,
        "pretrain": JobPhase.SUCCEEDED,
        "evaluate": JobPhase.SUCCEEDED,
        "serve": JobPhase.STOPPED,
    }
    assert not any(state.used_devices.values())


def test_lineage_reaches_from_the_report_to_the_raw_data(state: State) -> None:
    def ancestors(artifact: str) -> set[str]:
        made_of = state.artifacts[artifact].inputs
        return {artifact}.union(*(ancestors(source) for source in made_of))

    report = state.jobs[next(j.id for j in state.jobs.values() if j.task.name == "evaluate")].outputs[
        "report"
    ]
    kinds = {name.split("@")[0] for name in ancestors(report)}
    assert {"dataset:tang-poems", "dataset:raw-pages", "model:tiny", report.split("@")[0]} <= kinds


def test_the_bill_is_the_recorded_one_and_the_ledger_is_zero(state: State, facts) -> None:
    owed = bill(state, "default")
    paid = sum(
        -entry.amount_microyuan
        for fact in facts
        if type(fact).__name__ == "Settled"
        for entry in fact.entries
        if entry.account == "tenant:default"
    )
    assert owed.total_microyuan == paid == -state.balances["tenant:default"]
    assert sum(line.amount_microyuan for line in owed.lines) == owed.total_microyuan
    assert sum(state.balances.values()) == 0
    assert owed.moved_bytes > 0
    assert owed.tokens_out > 0


def test_every_prefix_folds_and_plans(facts) -> None:
    """A grid may be killed after any fact: what it then decides never touches what has ended."""
    state = State()
    for fact in facts:
        fold(state, [fact])
        plan = decide(state, Policy(), state.at_s)
        ended = {job.id for job in state.jobs.values() if job.phase in TERMINAL_PHASES}
        assert not ended & {getattr(action, "job", "") for action in plan.actions}
    assert decide(state, Policy(), state.at_s).actions == ()
