"""The worker's half of the task protocol: hear a ring, claim, beat while a handler works, report once.

    main("evaluator", HANDLERS, capabilities)

A handler takes a Task and returns the fact that answers its command, or raises. Everything else is here.
"""

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Any

import httpx
import structlog
from celery import Celery, bootsteps
from celery.signals import worker_shutting_down
from celery.worker.consumer import Consumer
from pydantic import BaseModel

from reflux import logs, polling, traces
from reflux.answering import Answering, ErrandHandler
from reflux.artifacts import Artifacts
from reflux.errors import RefluxError, Stopped, Terminal, unforeseen
from reflux.events import Event
from reflux.protocol import MACHINE, Accepted, Assignment, BeatAnswer, Claim, Completion, Failing, Registration, Stopping
from reflux.queues import ROUTES, kinds, make_app
from reflux.secret import secret
from reflux.task import Task

log = structlog.get_logger()

Handler = Callable[[Task], Event]
SHUTDOWN = "shutdown"
AWAKE_SECONDS = 0.02
CONNECT_SECONDS = 4.0
HAND_BACK_SECONDS = 5.0


class Api:
    """HTTP to the API, tried until it answers. A 4xx is a defect, and raises."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=15)

    def post(self, path: str, body: BaseModel | dict[str, Any], traceparent: str | None = None) -> Any:
        payload = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        wait = 0.2
        while True:
            try:
                return self.once(path, payload, traceparent=traceparent)
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                    raise
                log.warning("api_away", path=path, error=str(error)[:200])
                time.sleep(wait)
                wait = min(wait * 2, 5.0)

    def once(self, path: str, payload: dict[str, Any], timeout: float = 15, traceparent: str | None = None) -> Any:
        headers = {"traceparent": traceparent} if traceparent else None
        response = self.http.post(path, json=payload, timeout=timeout, headers=headers)
        response.raise_for_status()
        return response.json() if response.content else None

    def workers(self) -> list[dict[str, Any]]:
        response = self.http.get("/v1/workers")
        response.raise_for_status()
        return list(response.json())


class Worker:
    """One worker slot: its name outlives restarts, its incarnation does not."""

    def __init__(self, service: str, handlers: dict[str, Handler], api: Api, artifacts_url: str, name: str) -> None:
        self.service = service
        self.handlers = handlers
        self.api = api
        self.artifacts_url = artifacts_url
        self.name = name
        self.incarnation = secrets.token_hex(8)
        self.in_hand: set[Task] = set()
        self.shutting_down = False

    def register(self, capabilities: dict[str, Any]) -> None:
        body = Registration(name=self.name, service=self.service, incarnation=self.incarnation, capabilities=capabilities)
        self.api.post("/v1/workers", body)
        log.info("registered", worker=self.name, capabilities=capabilities)

    def hear(self, task_id: int) -> None:
        """Answer a ring: do the task whose turn it is, if there is anything to do."""
        if self.shutting_down:
            return
        claim = Claim(worker=self.name, incarnation=self.incarnation, token=secrets.token_hex(8), service=self.service)
        claimed = self.api.post(f"/v1/tasks/{task_id}/claim", claim)
        if claimed is not None:
            self.carry_out(Assignment.model_validate(claimed))

    def carry_out(self, assignment: Assignment) -> None:
        command = assignment.command
        task = Task(
            run_id=assignment.run_id,
            command=command,
            spec=assignment.spec,
            artifacts=Artifacts(self.artifacts_url),
            task_id=assignment.task_id,
            attempt=assignment.attempt,
            workers=self.api.workers,
            share=assignment.share,
            machine_key=assignment.machine_key,
        )
        context = {"run_id": task.run_id, "task": command.key, "attempt": task.attempt, "epoch": command.epoch}
        with structlog.contextvars.bound_contextvars(stage=command.stage.value, **context):
            log.info("task_begun")
            started = time.monotonic()
            self.in_hand.add(task)
            if self.shutting_down:  # it was claimed in the same moment
                task.stop = SHUTDOWN
            self._share_anew(task)
            over = threading.Event()
            beating = threading.Thread(
                target=copy_context().run,  # so that its lines name the task too
                args=(self._beat, task, assignment.beat_seconds, over),
                name=f"beat-{command.key}",
                daemon=True,
            )
            beating.start()
            try:
                path, body = self._work(task, started)
            finally:
                over.set()
                task.news.set()
                beating.join()
                self.in_hand.discard(task)
            self._report(task, path, body)
            self._share_anew(task)

    def _share_anew(self, task: Task) -> None:
        """A task that shares something has come or gone: the others in hand ask at once what theirs is now."""
        if task.share.of > 1:
            for other in self.in_hand - {task}:
                other.news.set()

    def shut_down(self) -> None:
        """Let the work in hand stop at its next safe point, and give it back."""
        self.shutting_down = True
        for task in list(self.in_hand):
            task.stop = task.stop or SHUTDOWN

    def _work(self, task: Task, started: float) -> tuple[str, BaseModel]:
        """Run the handler; what to tell the API, and where."""
        try:
            handler = self.handlers.get(task.command.kind)
            if handler is None:
                raise Terminal("not_supported", f"No {self.service} can do what the run asks for: {task.command.kind}")
            with self._span(task, "work", "consumer") as span:
                task.traceparent = span.traceparent
                event = handler(task)
            event = event.model_copy(update={"seconds": round(time.monotonic() - started, 3)})
            return "complete", Completion(attempt=task.attempt, event=event)
        except Stopped as stop:
            return "stopped", Stopping(attempt=task.attempt, handed_back=stop.why == SHUTDOWN)
        except RefluxError as error:
            log.warning("task_failed", code=error.code, message=error.message)
            return "fail", Failing(attempt=task.attempt, failure=error.failure(log=f"{self.name}'s log"))
        except Exception as error:  # the border of the worker: a defect must not lose the task
            log.exception("task_broke")
            return "fail", Failing(attempt=task.attempt, failure=unforeseen(error, log=f"{self.name}'s log"))

    def _report(self, task: Task, path: str, body: BaseModel) -> None:
        if task.stop == "lost":
            log.warning("attempt_lost")
            if path != "complete":  # a success counts from any attempt
                return
        rest = task.drain() | {"chunks": []}
        if rest["metrics"] or rest["logs"] or rest["phases"]:
            self._try_beat(task, rest)
        with self._span(task, "report", "client") as span:
            answer = Accepted.model_validate(self.api.post(f"/v1/tasks/{task.task_id}/{path}", body, span.traceparent))
            span.note({"reflux.how": path, "reflux.accepted": answer.accepted})
        log.info("task_reported", how=path, accepted=answer.accepted, why=answer.why)

    def _span(self, task: Task, name: str, kind: traces.Kind) -> AbstractContextManager[traces.Span]:
        """Below the attempt's span, which control writes when the attempt is over."""
        key, attempt = task.command.key, task.attempt
        parent = traces.traceparent(task.run_id, key, attempt)
        known: dict[str, str | int] = {"reflux.run.id": task.run_id, "reflux.task.key": key, "reflux.attempt": attempt}
        return traces.span(f"{task.command.kind} {name}", parent, known | {"reflux.worker": self.name}, kind=kind)

    def _beat(self, task: Task, every: float, over: threading.Event) -> None:
        """Tell how it goes every `every` seconds, or at once when there is news; take the answer."""
        while not over.is_set():
            task.news.wait(every)
            if over.is_set():
                return
            report = task.drain()
            answer = self._try_beat(task, report)
            if answer is None:
                task.put_back(report)
                over.wait(1)
            elif answer.answer == "lost":
                task.stop, task.kill = "lost", True
            elif answer.answer == "stop":
                task.stop, task.kill = task.stop or answer.why, answer.kill
            else:
                task.share = answer.share

    def _try_beat(self, task: Task, report: dict[str, Any]) -> BeatAnswer | None:
        """None: the API could not be heard; the work goes on meanwhile."""
        try:
            answer = self.api.once(f"/v1/tasks/{task.task_id}/beat", {"attempt": task.attempt, **report}, timeout=10)
        except httpx.HTTPError as error:
            log.warning("beat_unheard", error=str(error)[:200])
            return None
        return BeatAnswer.model_validate(answer)


def main(
    service: str,
    handlers: dict[str, Handler],
    capabilities: Callable[[], dict[str, Any]],
    *,
    concurrency: int | None = None,
    errands: dict[str, ErrandHandler] | None = None,
) -> None:
    """Run a worker process until it is told to stop. Settings come from the environment (REFLUX_…)."""
    logs.set_up(service)
    traces.set_up(service)
    missing = set(handlers) - set(kinds(service))
    if missing:
        raise ValueError(f"{service} has handlers for {missing}, which are not routed to it")
    name = os.environ.get("REFLUX_WORKER_NAME") or f"{service}@{socket.gethostname()}-{secrets.token_hex(3)}"
    api = Api(_needed("REFLUX_API_URL"), _needed("REFLUX_WORKER_KEY"))
    worker = Worker(service, handlers, api, _needed("REFLUX_ARTIFACTS_URL"), name)
    try:
        _serve(worker, capabilities, concurrency, errands or {})
    finally:
        traces.close()


def _serve(
    worker: Worker, capabilities: Callable[[], dict[str, Any]], concurrency: int | None, errands: dict[str, ErrandHandler]
) -> None:
    if os.environ.get("REFLUX_POLL") == "1":
        worker.service = MACHINE
        worker.register(capabilities())
        return polling.work(worker)
    worker.register(capabilities())
    app = make_app(_needed("REFLUX_BROKER_URL"), worker.service)
    _connect(app, worker, worker.service)
    threads = concurrency or int(os.environ.get("REFLUX_CONCURRENCY", "2"))
    answering = Answering(worker, errands)
    if errands:
        answering.start()
    try:
        app.worker_main(
            [
                "worker",
                "--pool=threads",
                f"--concurrency={threads}",
                f"--queues={worker.service}",
                f"--hostname={worker.name}",
                "--loglevel=WARNING",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ]
        )
    finally:
        answering.hand_back(HAND_BACK_SECONDS)


def _connect(app: Celery, worker: Worker, service: str) -> None:
    for kind in kinds(service):

        def hear(task_id: object = None, **_: object) -> None:
            if not isinstance(task_id, int):  # it becomes a part of a path, and whoever can write to the broker sets it
                log.warning("strange_ring", task_id=str(task_id)[:100])
                return
            worker.hear(task_id)

        app.task(hear, name=ROUTES[kind], ignore_result=True)

    worker_shutting_down.connect(lambda **_: worker.shut_down(), weak=False)
    app.steps["consumer"].add(_Awake)
    app.conf.worker_consumer = _Careful


class _Careful(Consumer):  # type: ignore[misc]
    """Celery dies of a body that is JSON and no call, gives the message back, and dies of it again. It is thrown away instead.

    A broker that was away for long is asked for every few seconds, not every thirty.
    """

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=CONNECT_SECONDS)
        return super().ensure_connected(conn)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        take = super().create_task_handler(*args, **kwargs)

        def carefully(message: Any) -> None:
            try:
                take(message)
            except (TypeError, ValueError) as error:
                self.on_decode_error(message, error)

        return carefully


class _Awake(bootsteps.StartStopStep):  # type: ignore[misc]
    """A pool thread's acknowledgement does not wake Celery's event loop, which then sleeps up to 10 s before it asks for the
    next message. A timer wakes it: a new one with each connection, as the loop drops its timers with the connection before."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        consumer.hub.call_repeatedly(AWAKE_SECONDS, lambda: None)


def _needed(name: str) -> str:
    value = secret(name)
    if not value:
        sys.exit(f"{name} is not set. Set it, or set {name}_FILE to the file that holds it.")
    return value
