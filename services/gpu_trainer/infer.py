"""People's questions to a student, answered token by token between the chunks of whatever else the GPU does.

    Question ─► bench.questions ─► answer_waiting: called by generate() at a chunk's border, and before each command
                                          │
       say(piece of text)* ◄──────────────┘

A question during a training waits for the training's end.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from reflux.artifacts import Artifacts
from reflux.commands import Generate
from reflux.completions import Tokens
from reflux.errands import Written
from reflux.errors import Failure, RefluxError, Stopped, Terminal, failure
from reflux.stages import Stage
from reflux.task import Task
from services.gpu_trainer import adapters
from services.gpu_trainer.chat import encode_prompt
from services.gpu_trainer.models import Bench, Student
from services.gpu_trainer.question import Asked, Question
from services.gpu_trainer.sampling import Draft, limits, write
from services.gpu_trainer.seeds import seed


def answer_waiting(bench: Bench) -> None:
    """Answer every question that waits. A question to another base costs a reload, now and when the work goes on."""
    while not bench.questions.empty():
        asked = bench.questions.get()
        asked.end(_answered(asked, bench))


def _answered(asked: Asked, bench: Bench) -> Written | Failure | None:
    try:
        return answer(asked.question, bench, asked.say, lambda: asked.given_up)
    except Stopped:
        return None
    except RefluxError as error:
        return error.failure()
    except Exception as error:  # noqa: BLE001 (whatever a question does, the work that waits for it goes on)
        traceback.print_exc()
        bench.forget()
        return failure("internal", f"{type(error).__name__}: {error}")


def answer(question: Question, bench: Bench, say: Callable[[str], None], given_up: Callable[[], bool] = lambda: False) -> Written:
    """Say the answer in pieces that together are its text. Raises Stopped once `given_up`; Terminal where the question is
    longer than the student can read; else as Bench.load does."""
    if given_up():
        raise Stopped("nobody waits for the answer")
    task = _task(question)
    student = bench.load(task)
    sampling, prompt_limit = limits(student, question.spec.generation, question.spec.generation.max_new_tokens)
    ids, cut = encode_prompt(student.tokenizer, question.spec.prompts.system, question.text, prompt_limit, question.before)
    if cut:
        most = f"{prompt_limit} tokens, beside an answer of up to {sampling.max_new_tokens}"
        raise Terminal("prompt_too_long", f"The prompt is longer than this student reads: {most}.")
    spoken = "".join(f"{turn.role}: {turn.content}\n" for turn in question.before) + question.text
    draft = Draft(ids, seed=seed(question.spec.seed, "question", spoken, question.sample))
    said = _Said(student, draft, say)

    def after_token(_: int) -> None:
        said.go_on()
        if given_up():
            raise Stopped("nobody waits for the answer")

    with TemporaryDirectory() as temporary:
        folder = task.artifacts.download(question.adapter_path, Path(temporary)) if question.adapter_path else None
        with adapters.answering(student, folder) as model:
            model.eval()
            write(student, model, [draft], sampling, after_token)
    return Written(finish_reason=draft.finish_reason or "length", usage=Tokens(prompt=len(ids), answer=len(draft.ids)))


class _Said:
    """What of a draft has been said. Bytes of an unfinished character wait for the rest of it."""

    def __init__(self, student: Student, draft: Draft, say: Callable[[str], None]) -> None:
        self.student, self.draft, self.say = student, draft, say
        self.characters = 0

    def go_on(self) -> None:
        draft = self.draft
        text = draft.text if draft.finish_reason else self.student.tokenizer.decode(draft.ids, skip_special_tokens=True)
        if len(text) > self.characters and (draft.finish_reason or not text.endswith("\N{REPLACEMENT CHARACTER}")):
            self.say(text[self.characters :])
            self.characters = len(text)


def _task(question: Question) -> Task:
    """What Bench.load wants to know, in its words."""
    command = Generate(stage=Stage.REFINING, model="student", sets=(), max_new_tokens=1, prompts_path="")
    return Task(question.run_id, command, question.spec, Artifacts(question.artifacts))
