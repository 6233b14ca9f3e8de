"""When the loop stops."""

import pytest

from reflux.convergence import Decision, check
from reflux.spec import Refining
from tests.unit.stories import epoch

GOOD, POOR = (8.0, 0.5), (7.99, 0.5)
FEW, MANY = (5.0, 0.09), (5.0, 0.10)
MET = Decision("quality threshold met", converged=True)
RARE = Decision("few corrections", converged=True)
LAST = Decision("max epochs")
ON = Decision()


@pytest.mark.parametrize(
    ("epochs", "decision"),
    [
        ([], ON),
        ([GOOD], ON),
        ([GOOD, GOOD], ON),
        ([GOOD, GOOD, GOOD], MET),
        ([GOOD, GOOD, POOR, GOOD, GOOD], ON),
        ([GOOD, GOOD, POOR, GOOD, GOOD, GOOD], MET),
        ([POOR, POOR, POOR], ON),
        ([FEW, FEW, FEW], RARE),
        ([FEW, FEW, MANY, FEW, FEW], ON),
        ([MANY, MANY, MANY], ON),
        ([(9.0, 0.0), (9.0, 0.0), (9.0, 0.0)], MET),
        ([GOOD, FEW, GOOD], ON),
        ([MANY] * 6, ON),
        ([MANY] * 7, LAST),
        ([MANY, MANY, MANY, MANY, GOOD, GOOD, GOOD], MET),
    ],
)
def test_three_in_a_row_or_the_last_of_seven(epochs: list[tuple[float, float]], decision: Decision) -> None:
    told = tuple(epoch(i + 1, score, rate) for i, (score, rate) in enumerate(epochs))
    assert check(told, Refining(max_epochs=7)) == decision


def test_its_numbers_are_fields_of_the_spec() -> None:
    refining = Refining(target_score=3.0, patience=1, min_correction_rate=0.8, max_epochs=2)
    assert check((epoch(1, 3.0, 0.9),), refining) == MET
    assert check((epoch(1, 2.9, 0.7),), refining) == RARE
    assert check((epoch(1, 2.9, 0.8),), refining) == ON
    assert check((epoch(1, 2.9, 0.8), epoch(2, 2.9, 0.8)), refining) == LAST


def test_practice_decides_whatever_dev_says() -> None:
    assert check((epoch(1, score=5.0, dev=10.0),), Refining(patience=1)) == ON


def test_an_epoch_without_answers_is_not_one_with_few_corrections() -> None:
    assert check((epoch(1, score=0.0, rate=0.0, count=0),), Refining(patience=1)) == ON
