"""A worker without a road to the broker: the machine of one run asks the API for the run's next task, again and again.

Its key is good for that run, and until it is over. The worker ends before, once no more work will come, and with it the machine.
"""

import signal
import time
from typing import TYPE_CHECKING

import httpx
import structlog

from reflux.protocol import Assignment, ClaimNext

if TYPE_CHECKING:
    from reflux.worker import Worker

log = structlog.get_logger()

CLAIM_SECONDS = 15.0


def work(worker: "Worker") -> None:
    """Until the run is over, or the process is told to stop: then the work in hand is saved and given back."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.shut_down())
    claims, wait = 0, 0.2
    while not worker.shutting_down:
        claims += 1
        body = ClaimNext(
            worker=worker.name, incarnation=worker.incarnation, token=f"{worker.incarnation}-{claims}", seconds=CLAIM_SECONDS
        )
        try:
            claimed = worker.api.once("/v1/tasks/claim", body.model_dump(), timeout=CLAIM_SECONDS + 15)
            if claimed is not None:
                worker.carry_out(Assignment.model_validate(claimed))
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 410):
                log.info("run_is_over")
                return
            log.warning("claim_unheard", error=str(error)[:200])
            claims -= 1  # asked again with the same token: its answer may only have been lost
            time.sleep(wait)
            wait = min(wait * 2, 5.0)
            continue
        wait = 0.2
