"""Asking the teacher: every answer is stored the moment it comes, and what is stored is never bought again."""

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reflux import prices, traces
from reflux.errors import RefluxError, Retriable, Terminal
from reflux.records import TeacherAnswer
from reflux.spec import Teacher
from reflux.summary import Usage
from reflux.task import Task
from services.teacher_worker import purse, redaction
from services.teacher_worker.bought import Bought
from services.teacher_worker.teachers import CallFailed, Client, teacher_for

LAST_SECONDS = 10.0  # when asked to stop: so long for the answers that are under way, as they are paid for
CHECKPOINT_EVERY = 10
SOON = 0.5  # of teacher.backoff_seconds: how soon a throttled call is made again that cost no try; the pace holds it back
FREE = ("teacher_throttled", "teacher_unreachable", "refused")  # no provider charges for these


@dataclass(frozen=True)
class Question:
    """What the teacher is asked about a prompt of the student. `prompt` is the student's, `text` the teacher's."""

    prompt_id: str
    prompt: str
    domain: str
    text: str


@dataclass
class Answers:
    """`usage` is that of the answers in hand, whichever attempt bought them; `bought` counts those of this one.

    `unasked` prompts have no row: the money was not there.
    """

    rows: list[TeacherAnswer] = field(default_factory=list)
    bought: int = 0
    unasked: int = 0
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
        return sum((_usage(row) for row in self.rows), Usage())

    def raise_for(self) -> RefluxError:
        """The error that fits when nothing was answered."""
        reasons = "; ".join(sorted({row.error or "" for row in self.rows})[:3])
        trouble = self.troubles.most_common(1)[0][0] if self.troubles else "refused"
        what = f"The teacher answered none of {len(self.rows)} prompts: {reasons}"[:1000]
        return Terminal("teaching_failed", what) if trouble == "refused" else Retriable(trouble, what)


def ask_all(task: Task, purpose: str, questions: Sequence[Question], ask: int = 1, budget_usd: float | None = None) -> Answers:
    """An answer, or what went wrong, for each question that `budget_usd` had money for, in their order.

    Raises Terminal where the teacher refuses everybody, Retriable where it can't be reached, Stopped.
    """
    answers = Answers()
    bought = Bought(task, purpose, ask)
    found = bought.stored([question.prompt_id for question in questions])
    if found:
        task.log(f"{len(found)} of {len(questions)} answers are there already")
    if lost := bought.in_vain.total():
        task.log(f"{lost} calls of earlier attempts were never answered; the provider may have charged for them", "warning")
    questions_left = [question for question in questions if question.prompt_id not in found]
    if questions_left:
        asking = _Asking(task, bought, len(questions), found, answers, budget_usd)
        with asking.client.limiter.sharing(lambda: task.share.part(task.spec.teacher.concurrency)):
            asking.run(questions_left)
    answers.rows = [found[question.prompt_id] for question in questions if question.prompt_id in found]
    answers.unasked = len(questions) - len(answers.rows)
    return answers


def buy(
    client: Client,
    teacher: Teacher,
    system: str,
    question: Question,
    tries: int = 1,
    before: Callable[[], None] = lambda: None,
    order: int = 0,
) -> TeacherAnswer:
    """One call, once the limiter gives it a slot. Raises CallFailed or Terminal, and what `before` raises before the call."""
    with client.limiter.slot(order):
        before()
        reply = client.converse(teacher, system, question.text)
    return TeacherAnswer(
        prompt_id=question.prompt_id,
        prompt=question.prompt,
        domain=question.domain,
        text=reply.text,
        model=teacher.model,
        provider=teacher.provider,
        answered_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tries=tries,
        input_tokens=reply.input_tokens,
        output_tokens=reply.output_tokens,
        cost_usd=prices.usd(teacher, reply.input_tokens, reply.output_tokens),
        error=f"cut at teacher.max_teacher_tokens ({teacher.max_teacher_tokens})" if reply.cut else None,
    )


class _Asking:
    """Many questions at once. One that waits to be asked again holds neither a slot nor a thread."""

    def __init__(
        self, task: Task, bought: Bought, total: int, found: dict[str, TeacherAnswer], answers: Answers, budget: float | None
    ) -> None:
        self.task = task
        self.teacher = task.spec.teacher
        self.system = task.spec.prompts.system
        self.bought = bought
        self.total = total
        self.found = found
        self.answers = answers
        self.purse = purse.Purse(budget, sum(row.cost_usd for row in found.values()))
        self.client = teacher_for(self.teacher)
        self.jitter = random.Random()  # noqa: S311 - spreads the retries of many workers
        self.due: list[tuple[float, int]] = []
        self.fresh: list[TeacherAnswer] = []
        self.short = False
        self.tries: Counter[int] = Counter()

    def run(self, questions: Sequence[Question]) -> None:
        self.questions = [self._safe(question) for question in questions]
        self.worst = [purse.worst(self.teacher, self.system + question.text) for question in self.questions]
        for question, most in zip(self.questions, self.worst, strict=True):
            self.purse.spent += most * self.bought.in_vain[question.prompt_id]
        self.due = [(0.0, i) for i in range(len(questions))]
        running: dict[Future[TeacherAnswer], int] = {}
        pool = ThreadPoolExecutor(self.teacher.concurrency, thread_name_prefix="teacher")
        try:
            while self.due or running:
                self.task.check()
                while (i := self._next(running)) is not None:
                    running[pool.submit(self._buy_and_keep, i)] = i
                if self.short and not running:
                    self.task.log(f"{len(self.due)} prompts are left: there is no money for one more call", "warning")
                    return
                if not running:
                    time.sleep(self._pause(running))
                for future in wait(running, timeout=self._pause(running), return_when=FIRST_COMPLETED).done:
                    self._settle(running.pop(future), future)
        finally:
            wait(running, timeout=LAST_SECONDS)
            pool.shutdown(wait=False, cancel_futures=True)

    def _next(self, running: Sized) -> int | None:
        """The question to be asked now, if there is one, a place for it, and the money."""
        self.short = False
        if not self.due or len(running) >= self.teacher.concurrency or self.due[0][0] > time.monotonic():
            return None
        i = self.due[0][1]
        self.short = not self.purse.take(i, self.worst[i])
        return None if self.short else heapq.heappop(self.due)[1]

    def _pause(self, running: Sized) -> float:
        """Seconds until another question may be asked, or it is time to look whether to stop."""
        if self.short or not self.due or len(running) == self.teacher.concurrency:
            return 0.5
        return min(0.5, max(0.0, self.due[0][0] - time.monotonic()))

    def _safe(self, question: Question) -> Question:
        """Without secrets, if the teacher is somebody else's."""
        if not self.teacher.is_hosted:
            return question
        text, count = redaction.redacted(question.text)
        self.answers.redacted += count
        return Question(question.prompt_id, question.prompt, question.domain, text)

    def _buy_and_keep(self, i: int) -> TeacherAnswer:
        question, tries = self.questions[i], self.tries[i] + 1
        if shared := self.bought.shared(question.text):
            there = {"prompt_id": question.prompt_id, "prompt": question.prompt, "cost_usd": 0.0, "reused": True}
            return self.bought.keep(shared.model_copy(update=there))

        model, provider = self.teacher.model, self.teacher.provider
        known: traces.Attributes = {"gen_ai.request.model": model, "gen_ai.provider.name": provider, "reflux.try": tries}

        def before() -> None:
            self.task.check()
            self.bought.asking(question.prompt_id)
            span.event("asked")

        try:
            with traces.span(f"chat {model}", self.task.traceparent, known, kind="client") as span:
                answer = buy(self.client, self.teacher, self.system, question, tries, before, self.task.task_id)
                tokens = {"gen_ai.usage.input_tokens": answer.input_tokens, "gen_ai.usage.output_tokens": answer.output_tokens}
                span.note(tokens)
        except (CallFailed, Terminal) as error:
            charged = isinstance(error, CallFailed) and error.trouble not in FREE
            self.bought.asked_in_vain(question.prompt_id, charged)
            raise
        self.bought.share(question.text, answer)
        return self.bought.keep(answer.model_copy(update={"in_vain": self.bought.in_vain[question.prompt_id]}))

    def _settle(self, i: int, future: Future[TeacherAnswer]) -> None:
        try:
            answer = future.result()
        except CallFailed as error:
            self.purse.settle(i, 0.0 if error.trouble in FREE else None)
            self._again_or_never(i, error)
            return
        self.purse.settle(i, answer.cost_usd)
        if not answer.reused:
            self.client.limiter.answered()
            self.answers.bought += 1
        self._found(i, answer)

    def _again_or_never(self, i: int, error: CallFailed) -> None:
        costs_a_try = self.client.limiter.throttled() if error.trouble == "teacher_throttled" else True
        self.tries[i] += costs_a_try
        if error.trouble == "refused" or self.tries[i] >= self.teacher.tries:
            if error.trouble == "teacher_unreachable":
                raise Retriable("teacher_unreachable", f"The teacher can't be reached: {error.message}")
            self.answers.troubles[error.trouble] += 1
            self.task.log(
                f"{self.questions[i].prompt_id}: skipped after {max(1, self.tries[i])} tries: {error.message}", "warning"
            )
            failed = _failed(self.questions[i], self.teacher, max(1, self.tries[i]), error)
            self._found(i, failed.model_copy(update={"in_vain": self.bought.in_vain[failed.prompt_id]}))
            return
        seconds = self.teacher.backoff_seconds * (2 ** (self.tries[i] - 1) if costs_a_try else SOON)
        heapq.heappush(self.due, (time.monotonic() + seconds * self.jitter.uniform(0.5, 1.5), i))

    def _found(self, i: int, answer: TeacherAnswer) -> None:
        self.found[self.questions[i].prompt_id] = answer
        self.fresh.append(answer)
        if len(self.found) % CHECKPOINT_EVERY == 0 or len(self.found) == self.total:
            self.task.artifacts.write_rows(f"{self.task.pieces}/so-far/{len(self.found):06d}.jsonl", self.fresh)
            self.fresh = []
            self.task.progress(len(self.found), self.total, "answers")


def _usage(row: TeacherAnswer) -> Usage:
    answered = bool(row.input_tokens or row.output_tokens or row.error is None)
    return Usage(
        calls=answered and not row.reused,
        reused=row.reused,
        at_risk=row.in_vain,
        input_tokens=0 if row.reused else row.input_tokens,
        output_tokens=0 if row.reused else row.output_tokens,
        cost_usd=row.cost_usd,
    )


def _failed(question: Question, teacher: Teacher, tries: int, error: CallFailed) -> TeacherAnswer:
    return TeacherAnswer(
        prompt_id=question.prompt_id,
        prompt=question.prompt,
        domain=question.domain,
        model=teacher.model,
        tries=tries,
        error=f"{error.trouble}: {error.message}",
    )
