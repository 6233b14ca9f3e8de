"""How it is noticed that a run's own machine is lost: by its provider's word, by a notice that it gives itself, by silence."""

from datetime import datetime

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from reflux import leaks
from reflux.errors import failure
from reflux.machines import Interruption, Kind, Lost, Seen
from services.api import tasks
from services.api.advance import append, lock
from services.api.settings import Settings
from services.api.tables import EventRow, ResourceRow, RunRow, WorkerRow

USUAL: dict[Kind, str] = {"ec2_instance": "running", "sagemaker_job": "Training"}
SILENT_LEASES = 4  # a machine whose provider says that it runs has so long to be heard again


def found_lost(session: Session, settings: Settings, machine: Lost) -> None:
    """A teacher worker has asked the provider. That a machine is unwell is believed only of one that is silent too."""
    told = machine.id or machine.token
    why = machine.why or failure("instance_lost", f"{told} is gone, and what the run had in hand there")
    if why.code == "machine_silent" and session.scalar(
        select(WorkerRow.name).where(WorkerRow.name == machine.token, WorkerRow.seen_at > func.now() - settings.lease)
    ):
        return
    why = why.model_copy(update={"message": leaks.redacted(why.message)})
    tasks.machine_lost(session, machine.run_id, machine.token, why, name=machine.id)


def seen(session: Session, machine: Seen) -> None:
    """A state that is not the usual one goes into the run's history; so does the way back. Who restarts is not thought silent."""
    row, resource = lock(session, machine.run_id), session.get(ResourceRow, machine.token)
    if row is None or row.ended_at is not None or resource is None or resource.status != "made":
        return
    if machine.restarting:
        resource.made_at = func.now()
    known = {"machine": machine.id or machine.token}
    told = select(EventRow.body["state"].astext).where(
        EventRow.run_id == row.id, EventRow.type == "machine_state", EventRow.body.contains(known)
    )
    if machine.state != (session.scalar(told.order_by(EventRow.seq.desc()).limit(1)) or USUAL[machine.kind]):
        append(session, row, "machine_state", known | {"state": machine.state})


def interrupted(session: Session, run_id: str, token: str, notice: Interruption) -> None:
    """The machine itself has heard from its provider that it is taken back. It may say so twice."""
    row, resource = lock(session, run_id), session.get(ResourceRow, token)
    if row is None or resource is None or resource.status not in ("intended", "made"):
        return
    name = resource.external_id or token
    append(session, row, "spot_interruption", {"machine": name, "action": notice.action, "time": notice.time})
    why = failure("spot_interrupted", f"{name} is taken back by its provider at {notice.time} ({notice.action})")
    tasks.machine_lost(session, run_id, token, why, name=resource.external_id, saving=True)


def watch(engine: Engine, settings: Settings, hearing_since: datetime) -> None:
    """Machines whose provider sees nothing wrong, and whose worker has not been heard of for long."""
    seconds = SILENT_LEASES * settings.lease.total_seconds()
    heard = func.greatest(WorkerRow.seen_at, ResourceRow.made_at, hearing_since)
    silent = (
        select(ResourceRow.run_id, ResourceRow.token, ResourceRow.external_id)
        .join(WorkerRow, WorkerRow.name == ResourceRow.token)
        .join(RunRow, RunRow.id == ResourceRow.run_id)
        .where(ResourceRow.status == "made", RunRow.ended_at.is_(None), heard < func.now() - SILENT_LEASES * settings.lease)
    )
    with Session(engine) as session:
        found = session.execute(silent).all()
    for run_id, token, name in found:
        with Session(engine) as session, session.begin():
            why = failure("machine_silent", f"{name or token} has said nothing for {seconds:g} s, and its provider sees it run")
            tasks.machine_lost(session, run_id, token, why, name=name)
