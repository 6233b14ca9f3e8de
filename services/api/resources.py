"""Machines that exist only for a run, in Postgres. Every function is part of a transaction; the caller commits.

intended ─► made ─► lost ─► ending ─► gone

One that is lost, or whose run is over, is looked at again and again until it is gone.
"""

from collections.abc import Iterable
from datetime import timedelta

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from reflux.commands import Provision
from reflux.machines import KINDS, Duties, Ended, Looked, Machine, Place
from reflux.run import Run
from reflux.views import ResourceView
from services.api.tables import DeploymentRow, PlaceRow, ResourceRow, RunRow

log = structlog.get_logger()

SETTLED = timedelta(minutes=15)  # after them, what no look has found was never made
SETTLED_LOOKS = 5  # as many as there are in those minutes
NOTICE = timedelta(minutes=2)  # a spot machine's, to save what it has in hand
FIRST_LOOK, LAST_LOOK = timedelta(minutes=1), timedelta(hours=1)  # between looks, which become rarer
PLACES_EVERY = timedelta(minutes=10)


def intend(session: Session, run: Run, command: Provision) -> None:
    """In the transaction that gives the command: what it will make, under the token that makes it once."""
    compute = run.spec.compute
    session.execute(
        insert(ResourceRow)
        .values(token=token(run.id, command), run_id=run.id, kind=KINDS[compute.kind], region=compute.region)
        .on_conflict_do_nothing()
    )
    session.execute(insert(PlaceRow).values(kind=KINDS[compute.kind], region=compute.region).on_conflict_do_nothing())


def token(run_id: str, command: Provision) -> str:
    return f"reflux-{run_id}-{command.number}"


def number(of_token: str) -> int:
    return int(of_token.rpartition("-")[2])


def deployment(session: Session) -> str:
    return session.scalars(select(DeploymentRow.id)).one()


def intended(session: Session, run_id: str, command: Provision) -> Machine:
    return _machine(session.get_one(ResourceRow, token(run_id, command)), deployment(session))


def of_run(session: Session, run_id: str) -> tuple[Machine, ...]:
    """Every machine that the run has ever had or may have, the first one first."""
    rows = session.scalars(select(ResourceRow).where(ResourceRow.run_id == run_id).order_by(ResourceRow.intended_at))
    name = deployment(session)
    return tuple(_machine(row, name) for row in rows)


def made(session: Session, run_id: str, command: Provision, external_id: str) -> None:
    row = session.get_one(ResourceRow, token(run_id, command), with_for_update=True)
    if row.status == "intended":
        row.status, row.made_at = "made", func.now()
    row.external_id = row.external_id or external_id


def lost(session: Session, token: str, name: str | None, *, saving: bool) -> bool:
    """It is to be ended: at once, or (`saving`) when its notice is over. False: it was lost before."""
    row = session.get(ResourceRow, token, with_for_update=True)
    if row is None or row.status not in ("intended", "made"):
        return False
    row.status, row.external_id = "lost", row.external_id or name
    row.look_at = func.now() + (NOTICE if saving else timedelta())
    return True


def is_lost(session: Session, token: str) -> bool:
    return session.scalar(select(ResourceRow.status).where(ResourceRow.token == token)) in ("lost", "ending", "gone")


def doubtful(session: Session, token: str) -> None:
    """Its worker is silent: let the provider be asked next."""
    session.execute(
        update(ResourceRow).where(ResourceRow.token == token, ResourceRow.status == "made").values(look_at=func.now())
    )


def ended(session: Session, outcomes: Iterable[Ended]) -> None:
    """Note what became of machines that were to be ended, and when to look again."""
    for outcome in outcomes:
        row = session.get(ResourceRow, outcome.token, with_for_update=True)
        if row is None or row.status == "gone":
            continue
        row.last, row.looked_at = outcome.model_dump(mode="json"), func.now()
        row.looks += 1
        row.external_id = outcome.id or row.external_id
        row.look_at = func.now() + min(FIRST_LOOK * 2 ** min(row.looks - 1, 10), LAST_LOOK)
        if outcome.status == "terminated" or (outcome.status == "not_found" and _is_settled(session, row)):
            row.status, row.gone_at = "gone", func.now()
        elif outcome.status == "terminating":
            row.status = "ending"


def duties(session: Session) -> Duties:
    """What is due to be looked at, given to one worker; until it reports, or for a minute, to no other."""
    live = select(RunRow.id).where(RunRow.id == ResourceRow.run_id, RunRow.ended_at.is_(None)).exists()
    to_end = ResourceRow.status.in_(("lost", "ending")) | ((ResourceRow.status != "gone") & ~live)
    due = (
        select(ResourceRow)
        .where(to_end, ResourceRow.look_at <= func.now())
        .order_by(ResourceRow.look_at)
        .limit(20)
        .with_for_update(skip_locked=True)
    )
    at_work = (
        select(ResourceRow)
        .where(ResourceRow.status == "made", ResourceRow.look_at <= func.now(), live)
        .limit(20)
        .with_for_update(skip_locked=True)
    )
    name = deployment(session)
    rows, working = session.scalars(due).all(), session.scalars(at_work).all()
    for row in (*rows, *working):
        row.look_at = func.now() + FIRST_LOOK
    places = select(PlaceRow).where(PlaceRow.look_at <= func.now()).with_for_update(skip_locked=True)
    found = session.scalars(places).all()
    for place in found:
        place.look_at = func.now() + PLACES_EVERY
    return Duties(
        machines=[_machine(row, name) for row in rows],
        working=[_machine(row, name) for row in working],
        places=[Place.model_validate({"kind": p.kind, "region": p.region, "deployment": name}) for p in found],
    )


def looked(session: Session, told: Looked) -> list[Machine]:
    """Take in what a worker has found; the machines among the living that no live run of this deployment has."""
    ended(session, told.ended)
    name = deployment(session)
    strays = []
    for machine in told.living:
        if machine.deployment != name:
            continue
        live = session.scalar(select(RunRow.id).where(RunRow.id == machine.run_id, RunRow.ended_at.is_(None)))
        if live is None:
            log.warning("stray_machine", run_id=machine.run_id, machine=machine.id, region=machine.region)
            strays.append(machine)
            _remember(session, machine)
    return strays


def left(session: Session) -> list[ResourceView]:
    """Everything that may still be there, oldest first."""
    query = select(ResourceRow, RunRow.status).join(RunRow, RunRow.id == ResourceRow.run_id, isouter=True)
    rows = session.execute(query.where(ResourceRow.status != "gone").order_by(ResourceRow.intended_at)).all()
    return [
        ResourceView(
            token=row.token,
            run_id=row.run_id,
            run_status=status,
            kind=row.kind,
            region=row.region,
            status=row.status,
            id=row.external_id,
            last=Ended.model_validate(row.last) if row.last else None,
            intended_at=row.intended_at,
            looked_at=row.looked_at,
        )
        for row, status in rows
    ]


def _remember(session: Session, machine: Machine) -> None:
    """A stray is on record from now on, and looked at like any other. One that was thought gone is back."""
    values = {"run_id": machine.run_id, "kind": machine.kind, "region": machine.region}
    session.execute(
        insert(ResourceRow)
        .values(token=machine.token, external_id=machine.id, status="made", **values)
        .on_conflict_do_update(index_elements=["token"], set_={"status": "made", "external_id": machine.id, "gone_at": None})
    )
    session.execute(update(ResourceRow).where(ResourceRow.token == machine.token).values(look_at=func.now() + FIRST_LOOK))


def _is_settled(session: Session, row: ResourceRow) -> bool:
    """What the provider does not know: it may only not know it yet, while it is not long lost or its run not long over."""
    if row.status == "lost" and row.looks >= SETTLED_LOOKS:
        return True
    over_at = select(func.coalesce(RunRow.ended_at, func.now())).where(RunRow.id == row.run_id).scalar_subquery()
    return bool(session.scalar(select(func.now() - func.coalesce(over_at, row.intended_at) > SETTLED)))


def _machine(row: ResourceRow, name: str) -> Machine:
    return Machine.model_validate(
        {
            "token": row.token,
            "run_id": row.run_id,
            "kind": row.kind,
            "region": row.region,
            "deployment": name,
            "id": row.external_id,
        }
    )
