"""Planted defects are noticed and gone again; one whose place has changed says so.

`make simulate-mutants` tries all of them.
"""

from collections import Counter

import pytest

from coordinator import recovery, state_dir
from tests.simulation.fault_runs.campaign import caught_by
from tests.simulation.fault_runs.mutants import MUTANTS, Edit, Mutant, MutantLostError

SEEDS = range(5)
NOTICED = {  # by one of these seeds, most of them
    "replay without weight": "a_vector_is_the_same_wherever_it_is",
    "age of the peer at a merge": "ages_follow_their_rules",
    "drop what was not acknowledged": "no_update_waits_behind_its_successors",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_each_can_be_planted_and_is_gone_again(mutant: Mutant) -> None:
    functions = [edit.function() for edit in mutant.edits]
    before = [function.__code__ for function in functions]
    with mutant.planted():
        assert all(function.__code__ != code for function, code in zip(functions, before, strict=True))
    assert [function.__code__ for function in functions] == before


def test_names_are_their_own() -> None:
    assert max(Counter(one.name for one in MUTANTS).values()) == 1


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (Edit(recovery, "nobody", {"a": "b"}), "coordinator.recovery has no function nobody"),
        (Edit(recovery, "Recovered.nobody", {"a": "b"}), "no function Recovered.nobody"),
        (Edit(recovery, "recover", {"not there": "b"}), "'not there' 0 times, not once"),
        (Edit(recovery, "recover", {"store": "b"}), "times, not once"),
    ],
)
def test_one_whose_place_is_gone_or_not_the_only_one_is_lost(edit: Edit, told: str) -> None:
    with pytest.raises(MutantLostError, match=told), edit.planted():
        pytest.fail("it was planted")


def test_whoever_has_imported_the_function_has_the_defect_too() -> None:
    edit = Edit(recovery, "recover", {"ledger=Ledger(ledger)": "ledger=Ledger()"})
    recover = vars(state_dir)["recover"]  # by name
    before = recover.__code__
    with edit.planted():
        assert recover.__code__ is not before
    assert recover.__code__ is before


@pytest.mark.parametrize("name", NOTICED)
def test_some_are_noticed_by_what_should_notice_them(name: str) -> None:
    mutant = next(one for one in MUTANTS if one.name == name)
    assert NOTICED[name] in (caught_by(mutant, seed) for seed in SEEDS)  # as soon as one does
