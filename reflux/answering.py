"""A worker's errands: one thread claims them one after the other, says what comes as it comes, and reports the end.

A handler takes an Errand and the artifact store's URL, and yields pieces of text, "" at least each second while there are none;
it returns how it ended. It is closed where nobody waits any more.
"""

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import httpx
import structlog

from reflux.errands import Errand, ErrandClaim, ErrandEnd, ErrandFailing, GoOn, Result, Said
from reflux.errors import Failure, RefluxError, failure

if TYPE_CHECKING:
    from reflux.worker import Worker

log = structlog.get_logger()

Pieces = Generator[str, None, Result]
ErrandHandler = Callable[[Errand, str], Pieces]

TOGETHER_SECONDS = 0.1  # what is written within them is said at once
CLAIM_SECONDS = 15.0
LIFE_SECONDS = 0.5


def in_silence(work: Callable[[], Result]) -> Pieces:
    """Do what has nothing to say before it is done. Closed before, it waits for `work`, which must have an end of its own."""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while wait([working], LIFE_SECONDS).not_done:
            yield ""
    return working.result()


class Answering:
    def __init__(self, worker: "Worker", handlers: dict[str, ErrandHandler]) -> None:
        self.worker = worker
        self.handlers = handlers
        self.in_hand = False
        self.thread = threading.Thread(target=self._answer_all, name="errands", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def hand_back(self, seconds: float) -> None:
        """Once the worker shuts down: wait for an errand in hand to be given back."""
        if self.in_hand:
            self.thread.join(seconds)

    def _answer_all(self) -> None:
        wait = 0.2
        while not self.worker.shutting_down:
            try:
                errand = self._claim()
            except httpx.HTTPError as error:
                log.warning("errands_unheard", error=str(error)[:200])
                time.sleep(wait)
                wait = min(wait * 2, 5.0)
                continue
            wait = 0.2
            if errand is not None:
                self.in_hand = True
                with structlog.contextvars.bound_contextvars(run_id=errand.run_id, errand=errand.id, attempt=errand.attempt):
                    try:
                        self._carry_out(errand)
                    except httpx.HTTPStatusError as error:  # a defect: the API refuses what is said
                        log.error("errand_refused", error=str(error)[:200])
                self.in_hand = False

    def _claim(self) -> Errand | None:
        worker = self.worker
        body = ErrandClaim(worker=worker.name, incarnation=worker.incarnation, service=worker.service, seconds=CLAIM_SECONDS)
        claimed = worker.api.once("/v1/errands/claim", body.model_dump(), timeout=CLAIM_SECONDS + 15)
        return None if claimed is None else Errand.model_validate(claimed)

    def _carry_out(self, errand: Errand) -> None:
        log.info("errand_begun", kind=errand.order.kind)
        try:
            ended = self._say_all(errand, self.handlers[errand.order.kind](errand, self.worker.artifacts_url))
        except httpx.HTTPStatusError:
            raise
        except RefluxError as error:
            ended = self._fail(errand, error.failure(log=f"{self.worker.name}'s log"))
        except Exception as error:  # the border of the worker: a defect must not end the thread
            log.exception("errand_broke")
            why = failure("internal", f"{type(error).__name__}: {error}"[:500], log=f"{self.worker.name}'s log")
            ended = self._fail(errand, why)
        log.info("errand_ended", how=ended)

    def _say_all(self, errand: Errand, pieces: Pieces) -> str:
        at, waiting, said_at = 0, "", 0.0
        while True:
            try:
                waiting += next(pieces)
            except StopIteration as end:
                self._post(errand, "end", ErrandEnd(attempt=errand.attempt, at=at, text=waiting, result=end.value))
                return "answered"
            if self.worker.shutting_down:
                pieces.close()
                return self._fail(errand, failure("handed_back", f"{self.worker.name} shuts down."))
            silent = time.monotonic() - said_at
            if silent > (TOGETHER_SECONDS if waiting else errand.beat_seconds):
                if not self._post(errand, "said", Said(attempt=errand.attempt, at=at, text=waiting)).go_on:
                    pieces.close()
                    return "given up: nobody waits for it"
                at, waiting, said_at = at + len(waiting), "", time.monotonic()

    def _fail(self, errand: Errand, why: Failure) -> str:
        self._post(errand, "fail", ErrandFailing(attempt=errand.attempt, failure=why))
        return why.code

    def _post(self, errand: Errand, what: str, body: Said | ErrandFailing) -> GoOn:
        return GoOn.model_validate(self.worker.api.post(f"/v1/errands/{errand.id}/{what}", body))
