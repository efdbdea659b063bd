"""Whether the simulations would notice: rules with one thing wrong each, run through small worlds that know
what must come of them. A mutant that nothing notices is a check that is missing."""

import pytest
from market_worlds import BATTERY
from mutants import MUTANTS, Mutant, apply


def first_complaint() -> str:
    """What the first world in which anything is wrong says; "" when all is well everywhere."""
    for make_case in BATTERY:
        case = make_case()
        for complaint in case.complaints():
            return f"{case.name}: {complaint}"
    return ""


def test_the_rules_as_they_are_pass() -> None:
    for make_case in BATTERY:
        case = make_case()
        assert list(case.complaints()) == [], case.name


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    with apply(mutant):
        caught = first_complaint()
    assert caught, f"no simulation notices that {mutant.name}"
    print(f"{mutant.name} | {caught}")


def test_rules_are_themselves_again() -> None:
    """What a mutant changed is put back, also when it broke something."""
    digests = []
    for _ in range(2):
        case = BATTERY[0]()
        assert not list(case.complaints())
        digests.append([(run.id, run.placed_at_s) for run in case.simulation.state.runs.values()])
        with pytest.raises(ZeroDivisionError), apply(MUTANTS[0]):
            raise ZeroDivisionError
    assert digests[0] == digests[1]
