"""What the evaluator does for people who try a student out: score one text, as a run would."""

from reflux.answering import ErrandHandler, Pieces, in_silence
from reflux.errands import Errand, JudgeErrand
from services.evaluator.score import Attempt
from services.evaluator.tasks import scorer_of


def judge(errand: Errand, _artifacts: str) -> Pieces:
    """The verdict on a text, by the rubric of the errand's spec."""
    order = errand.order
    assert isinstance(order, JudgeErrand)
    assert errand.spec is not None
    scorer = scorer_of(errand.spec.rubric)
    return in_silence(lambda: scorer.score(Attempt(order.text, order.prompt, order.domain)))


ERRANDS: dict[str, ErrandHandler] = {"judge": judge}
