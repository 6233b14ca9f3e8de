"""Asking the teacher: every answer is stored the moment it comes, and what is stored is never bought again."""

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from reflux import prices
from reflux.artifacts import Artifacts, teacher_answer_path
from reflux.errors import RefluxError, Retriable, Terminal
from reflux.records import TeacherAnswer
from reflux.spec import Teacher
from reflux.summary import Usage
from reflux.task import Task
from services.teacher_worker import redaction
from services.teacher_worker.bedrock import Bedrock, CallFailed, teacher_for

READERS = 32  # stored answers read at once
LAST_SECONDS = 10.0  # when asked to stop: so long for the answers that are under way, as they are paid for
PROGRESS_EVERY = 10


@dataclass(frozen=True)
class Question:
    """What the teacher is asked about a prompt of the student. `prompt` is the student's, `text` the teacher's."""

    prompt_id: str
    prompt: str
    domain: str
    text: str


@dataclass
class Answers:
    """`usage` is that of the answers in hand, whichever attempt bought them; `bought` counts those of this one."""

    rows: list[TeacherAnswer] = field(default_factory=list)
    bought: int = 0
    redacted: int = 0
    troubles: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> list[TeacherAnswer]:
        return [row for row in self.rows if row.error is None]

    @property
    def failed(self) -> list[TeacherAnswer]:
        return [row for row in self.rows if row.error is not None]

    @property
    def usage(self) -> Usage:
        return sum(
            (
                Usage(calls=1, input_tokens=row.input_tokens, output_tokens=row.output_tokens, cost_usd=row.cost_usd)
                for row in self.rows
                if row.input_tokens or row.output_tokens or row.error is None
            ),
            Usage(),
        )

    def raise_for(self) -> RefluxError:
        """The error that fits when nothing was answered."""
        reasons = "; ".join(sorted({row.error or "" for row in self.rows})[:3])
        trouble = self.troubles.most_common(1)[0][0] if self.troubles else "refused"
        what = f"The teacher answered none of {len(self.rows)} prompts: {reasons}"[:1000]
        return Terminal("teaching_failed", what) if trouble == "refused" else Retriable(trouble, what)


def ask_all(task: Task, purpose: str, questions: Sequence[Question], ask: int = 1) -> Answers:
    """An answer, or what went wrong, for each question, in their order.

    Raises Terminal where the teacher refuses everybody, Retriable where it can't be reached, Stopped.
    """
    answers = Answers()
    found = _stored(task, purpose, questions, ask)
    if found:
        task.log(f"{len(found)} of {len(questions)} answers are there already")
    questions_left = [question for question in questions if question.prompt_id not in found]
    if questions_left:
        _Asking(task, purpose, ask, len(questions), found, answers).run(questions_left)
    answers.rows = [found[question.prompt_id] for question in questions]
    return answers


def buy(
    client: Bedrock, teacher: Teacher, system: str, question: Question, tries: int = 1, check: Callable[[], None] = lambda: None
) -> TeacherAnswer:
    """One call, once the limiter gives it a slot. Raises CallFailed or Terminal, and what `check` raises before the call."""
    with client.limiter.slot():
        check()
        reply = client.converse(teacher, system, question.text)
    return TeacherAnswer(
        prompt_id=question.prompt_id,
        prompt=question.prompt,
        domain=question.domain,
        text=reply.text,
        model=teacher.model,
        tries=tries,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        cost_usd=prices.usd(teacher, reply.input_tokens, reply.output_tokens),
        error=f"cut at teacher.max_teacher_tokens ({teacher.max_teacher_tokens})" if reply.cut else None,
    )


class _Asking:
    """Many questions at once. One that waits to be asked again holds neither a slot nor a thread."""

    def __init__(self, task: Task, purpose: str, ask: int, total: int, found: dict[str, TeacherAnswer], answers: Answers) -> None:
        self.task = task
        self.teacher = task.spec.teacher
        self.path: Callable[[str], str] = lambda prompt_id: teacher_answer_path(task.run_id, purpose, prompt_id, ask)
        self.total = total
        self.found = found
        self.answers = answers
        self.client = teacher_for(self.teacher)
        self.jitter = random.Random()  # noqa: S311 - spreads the retries of many workers
        self.due: list[tuple[float, int]] = []
        self.tries: Counter[int] = Counter()
        self.waits: Counter[int] = Counter()

    def run(self, questions: Sequence[Question]) -> None:
        self.questions = [self._safe(question) for question in questions]
        self.due = [(0.0, i) for i in range(len(questions))]
        running: dict[Future[TeacherAnswer], int] = {}
        pool = ThreadPoolExecutor(self.teacher.concurrency, thread_name_prefix="teacher")
        try:
            while self.due or running:
                self.task.check()
                while self.due and len(running) < self.teacher.concurrency and self.due[0][0] <= time.monotonic():
                    _, i = heapq.heappop(self.due)
                    running[pool.submit(self._buy_and_keep, i)] = i
                if not running:
                    time.sleep(self._pause(running))
                for future in wait(running, timeout=self._pause(running), return_when=FIRST_COMPLETED).done:
                    self._settle(running.pop(future), future)
        finally:
            wait(running, timeout=LAST_SECONDS)
            pool.shutdown(wait=False, cancel_futures=True)

    def _pause(self, running: Sized) -> float:
        """Seconds until another question may be asked, or it is time to look whether to stop."""
        if not self.due or len(running) == self.teacher.concurrency:
            return 0.5
        return min(0.5, max(0.0, self.due[0][0] - time.monotonic()))

    def _safe(self, question: Question) -> Question:
        """Without secrets, if the teacher is somebody else's."""
        if self.teacher.provider != "bedrock":
            return question
        text, count = redaction.redacted(question.text)
        self.answers.redacted += count
        return Question(question.prompt_id, question.prompt, question.domain, text)

    def _buy_and_keep(self, i: int) -> TeacherAnswer:
        question, tries = self.questions[i], self.tries[i] + 1
        answer = buy(self.client, self.teacher, self.task.spec.prompts.system, question, tries, self.task.check)
        return keep(self.task.artifacts, self.path(question.prompt_id), answer)

    def _settle(self, i: int, future: Future[TeacherAnswer]) -> None:
        try:
            answer = future.result()
        except CallFailed as error:
            self._again_or_never(i, error)
            return
        self.client.limiter.answered()
        self.answers.bought += 1
        self._found(i, answer)

    def _again_or_never(self, i: int, error: CallFailed) -> None:
        costs_a_try = self.client.limiter.throttled() if error.trouble == "teacher_throttled" else True
        self.tries[i] += costs_a_try
        self.waits[i] += 1
        if error.trouble == "refused" or self.tries[i] >= self.teacher.tries:
            if error.trouble == "teacher_unreachable":
                raise Retriable("teacher_unreachable", f"The teacher can't be reached: {error.message}")
            self.answers.troubles[error.trouble] += 1
            self.task.log(
                f"{self.questions[i].prompt_id}: skipped after {max(1, self.tries[i])} tries: {error.message}", "warning"
            )
            self._found(i, _failed(self.questions[i], self.teacher, max(1, self.tries[i]), error))
            return
        longest = self.teacher.backoff_seconds * 2 ** min(self.waits[i] - 1, self.teacher.tries - 1)
        heapq.heappush(self.due, (time.monotonic() + longest * self.jitter.uniform(0.5, 1.5), i))

    def _found(self, i: int, answer: TeacherAnswer) -> None:
        self.found[self.questions[i].prompt_id] = answer
        if len(self.found) % PROGRESS_EVERY == 0 or len(self.found) == self.total:
            self.task.progress(len(self.found), self.total, "answers")


def keep(artifacts: Artifacts, path: str, answer: TeacherAnswer) -> TeacherAnswer:
    """Store an answer unless another attempt was first; the one that counts."""
    if artifacts.create(path, answer.model_dump_json().encode()):
        return answer
    return TeacherAnswer.model_validate_json(artifacts.get(path))


def _stored(task: Task, purpose: str, questions: Sequence[Question], ask: int) -> dict[str, TeacherAnswer]:
    """The answers that earlier attempts bought."""

    def stored(question: Question) -> TeacherAnswer | None:
        try:
            row = task.artifacts.get(teacher_answer_path(task.run_id, purpose, question.prompt_id, ask))
        except FileNotFoundError:
            return None
        return TeacherAnswer.model_validate_json(row)

    with ThreadPoolExecutor(READERS) as pool:
        return {row.prompt_id: row for row in pool.map(stored, questions) if row}


def _failed(question: Question, teacher: Teacher, tries: int, error: CallFailed) -> TeacherAnswer:
    return TeacherAnswer(
        prompt_id=question.prompt_id,
        prompt=question.prompt,
        domain=question.domain,
        model=teacher.model,
        tries=tries,
        error=f"{error.trouble}: {error.message}",
    )
