"""What the evaluator does for people who try a student out: score one text, as a run would."""

from concurrent.futures import ThreadPoolExecutor, wait

from reflux.answering import ErrandHandler, Pieces
from reflux.errands import Errand, JudgeErrand
from services.evaluator.score import Attempt
from services.evaluator.tasks import scorer_of

LIFE_SECONDS = 0.5


def judge(errand: Errand, _artifacts: str) -> Pieces:
    """The verdict on a text, by the rubric of the errand's spec. Nothing is said before."""
    order = errand.order
    assert isinstance(order, JudgeErrand)
    scorer = scorer_of(errand.spec.rubric)
    with ThreadPoolExecutor(1) as pool:
        scored = pool.submit(scorer.score, Attempt(order.text, order.prompt, order.domain))
        while wait([scored], LIFE_SECONDS).not_done:
            yield ""
    return scored.result()


ERRANDS: dict[str, ErrandHandler] = {"judge": judge}
