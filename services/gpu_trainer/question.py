"""A question to a student, and whoever waits for its answer. Known on both sides of the pipe, so without torch."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from reflux.errands import Written
from reflux.errors import Failure
from reflux.records import Message
from reflux.spec import RunSpec


class Question(BaseModel):
    """`spec.generation` says how to answer, `spec.prompts.system` as whom. Without `adapter_path` the base answers.

    `before` are the turns between the system's and the question.

    The same question has the same answer; another `sample`, another one.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    spec: RunSpec
    artifacts: str
    before: tuple[Message, ...] = ()
    text: str
    adapter_path: str | None = None
    sample: int = 0


@dataclass(eq=False)
class Asked:
    """`say` takes the pieces of the answer, `end` then why there are no more: None where it was given up."""

    question: Question
    say: Callable[[str], None]
    end: Callable[[Written | Failure | None], None]
    given_up: bool = False
