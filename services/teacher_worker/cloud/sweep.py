"""What a teacher worker does beside its tasks: end machines whose run is over, and look for those that nobody has on record.

The API says what is due, and to one worker at a time; without machines there is nothing to do, and no provider is asked.
"""

import threading
from typing import Any

import httpx
import structlog

from reflux.errors import RefluxError
from reflux.machines import Duties, Ended, Looked, Machine
from reflux.secret import secret
from services.teacher_worker.cloud import providers

log = structlog.get_logger()

EVERY_SECONDS = 30.0


def start(api_url: str | None) -> None:
    """In a thread that dies with the process."""
    key = secret("REFLUX_WORKER_KEY")
    if api_url and key:
        threading.Thread(target=_for_ever, args=(api_url, key), name="sweep", daemon=True).start()


def _for_ever(api_url: str, key: str) -> None:
    rest = threading.Event()
    with httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {key}"}, timeout=15) as api:
        while True:
            try:
                sweep(api)
            except httpx.HTTPError as error:
                log.warning("sweep_unheard", error=str(error)[:200])
            rest.wait(EVERY_SECONDS)


def sweep(api: httpx.Client) -> int:
    """One round; how many machines were looked at."""
    duties = Duties.model_validate(_post(api, "duties", None))
    ended = [_end(machine) for machine in duties.machines]
    lost = [machine for machine in duties.working if _is_gone(machine)]
    living = []
    for place in duties.places:
        try:
            living += providers.living(place)
        except RefluxError as error:
            log.warning("place_not_looked_at", region=place.region, kind=place.kind, error=str(error))
    if not ended and not living and not lost:
        return 0
    strays = [Machine.model_validate(m) for m in _post(api, "looked", Looked(ended=ended, living=living, lost=lost))]
    if strays:
        _post(api, "looked", Looked(ended=[_end(machine) for machine in strays]))
    return len(ended) + len(lost) + len(strays)


def _is_gone(machine: Machine) -> bool:
    """Only if the provider says so: an error tells nothing."""
    try:
        return not providers.standing(machine)
    except RefluxError as error:
        log.warning("machine_not_looked_at", run_id=machine.run_id, machine=machine.id, error=str(error))
        return False


def _end(machine: Machine) -> Ended:
    outcome = providers.end(machine, wait_seconds=0)
    log.info("machine_swept", run_id=machine.run_id, machine=outcome.id, status=outcome.status, error=outcome.error)
    return outcome


def _post(api: httpx.Client, what: str, body: Looked | None) -> Any:
    answer = api.post(f"/v1/resources/{what}", json=None if body is None else body.model_dump(mode="json"))
    answer.raise_for_status()
    return answer.json()
