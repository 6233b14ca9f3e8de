"""People's questions: to a student, with its answer as it is written; about data. Routes and pages stand on `Errands`.

    asked = await errands.ask(CompletionRequest(run=run_id, prompt="…", score=True), by=label)   # ProblemError where it can't be
    async with aclosing(errands.follow(asked)) as events:                                        # leaving ends the generation
        async for event in events:  # Waiting* and Piece*, then one CompletionView; ProblemError where it fails
    found = await errands.preview(PreviewRequest(uri="s3://…", holds="sources"), by=label)

A question is a row of `errands`: no run waits for it, and none is moved. Its road to a worker: errand_desk.py.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import anyio
from fastapi.concurrency import run_in_threadpool
from pydantic import TypeAdapter
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.orm import Session

from reflux import leaks
from reflux.artifacts import Artifacts
from reflux.completions import CompletionRequest, CompletionView, Piece, Waiting
from reflux.errands import SERVICES, CompleteErrand, JudgeErrand, Order, PreviewErrand, Written
from reflux.errors import ErrorClass, Failure
from reflux.previews import Preview, PreviewRequest
from reflux.records import Message, Verdict
from reflux.run import Run
from reflux.spec import FieldProblem, RunSpec
from services.api import busy, errand_desk, removals, runs
from services.api.database import AWAY
from services.api.listening import Listener
from services.api.problems import ProblemError
from services.api.settings import Settings
from services.api.tables import ErrandRow

PREVIEW_SECONDS = 60
PREVIEW: TypeAdapter[Preview] = TypeAdapter(Preview)
MOST_OF_ONE = 4  # unanswered questions of one key
MOST = 32  # of all
LOOK_SECONDS = 2.0
MARK = timedelta(seconds=3)  # how often a question is marked as waited for
ASKED_WRONG = ("prompt_too_long", "empty_dataset", "invalid_dataset", "no_such_bucket")


@dataclass(frozen=True)
class Asked:
    """A question that has been taken on. `checkpoint` is the epoch that answers, or the base."""

    id: int
    request: CompletionRequest
    checkpoint: Literal["base"] | int
    by: str
    spec: RunSpec


@dataclass(frozen=True)
class _Look:
    """An errand as it is now. `waiting` where nothing is written yet."""

    row: ErrandRow
    now: datetime
    waiting: Waiting | None

    @property
    def seconds(self) -> float:
        return ((self.row.ended_at or self.now) - self.row.created_at).total_seconds()


class Errands:
    def __init__(self, engine: Engine, listener: Listener, settings: Settings) -> None:
        self.engine = engine
        self.listener = listener
        self.settings = settings

    async def ask(self, request: CompletionRequest, by: str) -> Asked:
        """ProblemError: no such run or checkpoint (404), none that could answer (409), no worker (503), too many (429)."""
        return await run_in_threadpool(self._ask, request, by)

    async def follow(self, asked: Asked) -> AsyncGenerator[Piece | Waiting | CompletionView, None]:
        """What happens to a question, to its end. Leaving off ends it."""
        request, said, told = asked.request, "", Waiting(doing="")
        async with aclosing(self._looks(asked.id)) as looks:
            async for look in looks:
                if look.waiting and look.seconds > request.patience_seconds:
                    raise _busy(look.waiting)
                if look.waiting and look.waiting != told:
                    told = look.waiting
                    yield told
                if piece := _further(said, look.row.text):
                    said += piece
                    yield Piece(text=piece)
        written, verdict, unscored = Written.model_validate(look.row.result), None, ""
        if request.score:
            yield Waiting(doing="scoring the answer")
            try:
                verdict = await self._score(asked, said)
            except ProblemError as error:  # the answer is there all the same
                unscored = error.problem.detail
        yield CompletionView(
            run=request.run,
            checkpoint=asked.checkpoint,
            text=said,
            seconds=look.seconds,
            verdict=verdict,
            unscored=unscored,
            **dict(written),
        )

    async def preview(self, request: PreviewRequest, by: str) -> Preview:
        """What a teacher worker finds. ProblemError: nothing, what can't be read (422, 409), no worker (503), too many (429)."""
        asked = await run_in_threadpool(self._have_looked, request, by)
        async with aclosing(self._looks(asked)) as looks:
            async for look in looks:
                if look.waiting and look.seconds > PREVIEW_SECONDS:
                    told = f"{request.uri} could not be looked at within {PREVIEW_SECONDS} s."
                    raise ProblemError(503, "preview_late", told, "Try again; or start the run, whose preflight takes its time.")
        return PREVIEW.validate_python(look.row.result)

    async def _score(self, asked: Asked, said: str) -> Verdict:
        judging = await run_in_threadpool(self._have_judged, asked, said)
        async with aclosing(self._looks(judging)) as looks:
            async for look in looks:
                if look.waiting and look.seconds > asked.request.patience_seconds:
                    raise _busy(look.waiting)
        return Verdict.model_validate(look.row.result)

    async def _looks(self, errand_id: int) -> AsyncGenerator[_Look, None]:
        """The errand at each of its changes, and now and then, until it is answered. ProblemError where it fails.

        Leaving off ends it.
        """
        open_still = True
        try:
            with self.listener.watched(errand_desk.name(errand_id)) as rung:
                while open_still:
                    rung.clear()
                    try:
                        look = await run_in_threadpool(self._look, errand_id)
                    except AWAY:
                        await asyncio.sleep(1)
                        continue
                    open_still = look.row.status in ("ready", "claimed")
                    if look.row.error:
                        raise _problem(Failure.model_validate(look.row.error))
                    if look.row.status == "cancelled":
                        raise ProblemError(409, "cancelled", "Nobody waited for this question any more.", "Ask again.")
                    yield look
                    if open_still:
                        await _ring(rung, LOOK_SECONDS)
        finally:
            if open_still:
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(self._leave, errand_id)

    def _ask(self, request: CompletionRequest, by: str) -> Asked:
        wrong = [
            FieldProblem(field=f"messages.{place}", message="this looks like a key or a password", hint="Take it out.")
            for place in leaks.places([turn.content for turn in request.turns])
        ]
        if wrong:
            raise ProblemError(422, "secret_in_prompt", "The prompt holds what looks like a secret.", "Take it out.", wrong)
        with Session(self.engine) as session, session.begin():
            run = Run.model_validate(runs.get(session, request.run).state)
            checkpoint, path = _checkpoint(run, request.checkpoint)
            if path:
                removals.refuse_if_gone(session, run.id, "artifacts")
            if path and not Artifacts(self.settings.artifacts_url).paths(path):
                told = f"The adapter of epoch {checkpoint} of run {run.id} has been deleted."
                raise ProblemError(409, "checkpoint_gone", told, "Ask `base`, or another run.")
            spec, turns = _settled(run.spec, request)
            for kind in ("complete", "judge") if request.score else ("complete",):
                self._needs_worker(session, SERVICES[kind])
            self._has_room(session, by)
            errand_id = _insert(session, CompleteErrand(turns=turns, adapter_path=path, sample=request.sample), by, run.id, spec)
        return Asked(errand_id, request, checkpoint, by, spec)

    def _have_looked(self, request: PreviewRequest, by: str) -> int:
        runs.refuse_secrets({"uri": request.uri})
        with Session(self.engine) as session, session.begin():
            self._needs_worker(session, SERVICES["preview"])
            self._has_room(session, by)
            return _insert(session, PreviewErrand(**dict(request)), by)

    def _have_judged(self, asked: Asked, said: str) -> int:
        request = asked.request
        order = JudgeErrand(text=said, prompt=request.turns[-1].content, domain=request.domain)
        with Session(self.engine) as session, session.begin():
            return _insert(session, order, asked.by, request.run, asked.spec)

    def _needs_worker(self, session: Session, service: str) -> None:
        if not busy.alive(session, service, self.settings):
            start = f"Start one: `reflux up`, or `python -m services.{service}` where it is to run."
            raise ProblemError(503, "no_worker", f"No {service} is alive.", start, headers={"Retry-After": "10"})

    def _has_room(self, session: Session, by: str) -> None:
        session.execute(text("select pg_advisory_xact_lock(hashtext('errands'))"))  # two at once: one counts the other
        unanswered = ErrandRow.status.in_(("ready", "claimed")) & (ErrandRow.kind != "judge")
        askers = session.scalars(select(ErrandRow.asked_by).where(unanswered)).all()
        if askers.count(by) >= MOST_OF_ONE or len(askers) >= MOST:
            told = f"{askers.count(by)} questions of this key and {len(askers)} of all wait for their answers."
            hint = f"A key may have {MOST_OF_ONE}, and all together {MOST}. Wait for one, or leave it."
            raise ProblemError(429, "too_many_questions", told, hint, headers={"Retry-After": "5"})

    def _look(self, errand_id: int) -> _Look:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            row = session.get(ErrandRow, errand_id)
            if row is None:
                raise ProblemError(
                    404, "run_not_found", "The run has been deleted.", "`reflux run list` shows the runs there are."
                )
            now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
            unanswered = row.status in ("ready", "claimed")
            if unanswered and now - row.waited_for_at > MARK:
                session.execute(update(ErrandRow).where(ErrandRow.id == errand_id).values(waited_for_at=func.now()))
            return _Look(row, now, busy.waiting(session, row, now, self.settings) if unanswered and not row.text else None)

    def _leave(self, errand_id: int) -> None:
        with Session(self.engine) as session, session.begin():
            errand_desk.cancel(session, [errand_id])


async def _ring(rung: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(rung.wait(), seconds)
    except TimeoutError:
        pass


def _insert(session: Session, order: Order, by: str, run_id: str | None = None, spec: RunSpec | None = None) -> int:
    row = ErrandRow(
        kind=order.kind,
        service=SERVICES[order.kind],
        run_id=run_id,
        asked_by=by,
        order=order.model_dump(mode="json"),
    )
    if spec is not None:
        row.spec = spec.model_dump(mode="json")
    session.add(row)
    session.flush()
    errand_desk.ring(session, row.service)
    return row.id


def _checkpoint(run: Run, wanted: str | int) -> tuple[Literal["base"] | int, str | None]:
    """The epoch that is meant, or the base, and the path of its adapter. 404 says which there are."""
    if run.spec.recipe == "job":
        raise ProblemError(409, "not_a_student", f"Run {run.id} is a job of its own and has no student.", "Ask another run.")
    if wanted == "base":
        return "base", None
    adapters = {epoch.epoch: epoch.adapter_path for epoch in run.epochs}
    if run.trained:
        adapters.setdefault(run.epoch, run.trained.adapter_path)
    if not adapters:
        told = f"Run {run.id} has no adapter yet: it is {run.status}."
        raise ProblemError(409, "no_checkpoint", told, "Ask `base`, or ask again once an epoch is trained.")
    epoch = (run.best.epoch if run.best else max(adapters)) if wanted == "best" else int(wanted)
    if epoch not in adapters:
        there = ", ".join(map(str, ("best", "base", *sorted(adapters))))
        raise ProblemError(404, "checkpoint_not_found", f"Run {run.id} has no epoch {epoch}.", f"It has {there}.")
    return epoch, adapters[epoch]


def _settled(spec: RunSpec, request: CompletionRequest) -> tuple[RunSpec, tuple[Message, ...]]:
    """The run's spec as the question wants it, and the turns after the system's."""
    turns = request.turns
    changes = {"max_new_tokens": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p}
    generation = spec.generation.model_copy(update={name: value for name, value in changes.items() if value is not None})
    prompts = spec.prompts
    if turns[0].role == "system":
        prompts, turns = prompts.model_copy(update={"system": turns[0].content}), turns[1:]
    seed = spec.seed if request.seed is None else request.seed
    return spec.model_copy(update={"generation": generation, "prompts": prompts, "seed": seed}), turns


def _further(said: str, text: str) -> str:
    """What of `text` has not been said. Begun anew by another worker, it says the same again, which is waited for."""
    if not text.startswith(said) and not said.startswith(text):
        told = "The answer was begun anew by another worker, and reads otherwise."
        raise ProblemError(503, "answer_changed", told, "Ask again.")
    return text[len(said) :]


def _busy(waiting: Waiting) -> ProblemError:
    seconds = 60 if waiting.eta_seconds is None else max(1, round(waiting.eta_seconds))
    hint = f"Ask again in about {seconds} s, or wait for longer with `patience_seconds`."
    return ProblemError(
        503, "gpu_busy", f"The question still waits: {waiting.doing}.", hint, headers={"Retry-After": str(seconds)}
    )


def _problem(failed: Failure) -> ProblemError:
    status = 503 if failed.error_class == ErrorClass.RETRIABLE else 409
    return ProblemError(422 if failed.code in ASKED_WRONG else status, failed.code, failed.message, failed.hint)
