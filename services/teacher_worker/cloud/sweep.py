"""What a teacher worker does beside its tasks: end machines that are lost or whose run is over, look after those at work, and
look for those that nobody has on record.

The API says what is due, and to one worker at a time; without machines there is nothing to do, and no provider is asked.
"""

import os
import threading
from typing import Any

import httpx
import structlog

from reflux.errors import POLICIES, RefluxError, Retriable
from reflux.machines import Duties, Ended, Looked, Lost, Machine, Seen
from reflux.secret import secret
from services.teacher_worker.cloud import ec2, providers, sagemaker

log = structlog.get_logger()

EVERY_SECONDS = 30.0  # or REFLUX_SWEEP_SECONDS


def start(api_url: str | None) -> None:
    """In a thread that dies with the process."""
    key = secret("REFLUX_WORKER_KEY")
    if api_url and key:
        threading.Thread(target=_for_ever, args=(api_url, key), name="sweep", daemon=True).start()


def _for_ever(api_url: str, key: str) -> None:
    rest, every = threading.Event(), float(os.environ.get("REFLUX_SWEEP_SECONDS", EVERY_SECONDS))
    with httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {key}"}, timeout=15) as api:
        while True:
            try:
                sweep(api)
            except httpx.HTTPError as error:
                log.warning("sweep_unheard", error=str(error)[:200])
            rest.wait(every)


def sweep(api: httpx.Client) -> int:
    """One round; how many machines were looked at."""
    duties = Duties.model_validate(_post(api, "duties", None))
    ended = [_end(machine) for machine in duties.machines]
    looks = [look for machine in duties.working if (look := _look(machine))]
    seen, lost = [look for look in looks if isinstance(look, Seen)], [look for look in looks if isinstance(look, Lost)]
    living = []
    for place in duties.places:
        try:
            living += providers.living(place)
        except RefluxError as error:
            log.warning("place_not_looked_at", region=place.region, kind=place.kind, error=str(error))
    if not ended and not living and not looks:
        return 0
    told = Looked(ended=ended, living=living, seen=seen, lost=lost)
    strays = [Machine.model_validate(m) for m in _post(api, "looked", told)]
    if strays:
        _post(api, "looked", Looked(ended=[_end(machine) for machine in strays]))
    return len(ended) + len(lost) + len(strays)


def _look(machine: Machine) -> Seen | Lost | None:
    """Lost only if the provider says so: an error tells nothing."""
    try:
        state, why = providers.seen(machine)
        if why is None and machine.kind == "ec2_instance":
            why = ec2.unwell(machine, state)
    except RefluxError as error:
        log.warning("machine_not_looked_at", run_id=machine.run_id, machine=machine.id, error=str(error))
        return None
    known = machine.model_dump()
    if why is None:
        return Seen(**known, state=state, restarting=machine.kind == "sagemaker_job" and state not in sagemaker.AT_WORK)
    if not POLICIES[why.code].of_machine:  # it has worked, so that another one may too
        why = Retriable("instance_lost", why.message)
    return Lost(**known, why=why.failure())


def _end(machine: Machine) -> Ended:
    outcome = providers.end(machine, wait_seconds=0)
    log.info("machine_swept", run_id=machine.run_id, machine=outcome.id, status=outcome.status, error=outcome.error)
    return outcome


def _post(api: httpx.Client, what: str, body: Looked | None) -> Any:
    answer = api.post(f"/v1/resources/{what}", json=None if body is None else body.model_dump(mode="json"))
    answer.raise_for_status()
    return answer.json()
