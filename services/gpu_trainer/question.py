"""A question to a student, and whoever waits for its answer. Known on both sides of the pipe, so without torch."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from reflux.errors import Failure
from reflux.spec import RunSpec


class Question(BaseModel):
    """`spec.generation` says how to answer, `spec.prompts.system` as whom. Without `adapter_path` the base answers.

    The same question has the same answer; another `sample`, another one.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    spec: RunSpec
    artifacts: str
    text: str
    adapter_path: str | None = None
    sample: int = 0


@dataclass(eq=False)
class Asked:
    """`say` takes the pieces of the answer, `end` then why there are no more: None, or what went wrong."""

    question: Question
    say: Callable[[str], None]
    end: Callable[[Failure | None], None]
    given_up: bool = False
