"""/v1/resources: machines that exist only for a run; for people what is left, for teacher workers what to look at."""

from fastapi import APIRouter

from reflux.machines import Duties, Looked, Machine
from reflux.views import ResourceView
from services.api import resources, tasks
from services.api.auth import Viewer, Worker
from services.api.session import Database

router = APIRouter(prefix="/v1")


@router.get("/resources", tags=["system"])
def left(_: Viewer, session: Database) -> list[ResourceView]:
    """Everything outside that may still be there and cost money, of live runs too."""
    return resources.left(session)


@router.post("/resources/duties", tags=["workers"])
def duties(_: Worker, session: Database) -> Duties:
    """What is due to be looked at. Nobody else is told of it for the next minute."""
    found = resources.duties(session)
    session.commit()
    return found


@router.post("/resources/looked", tags=["workers"])
def looked(_: Worker, session: Database, body: Looked) -> list[Machine]:
    """Note what was found. The answer: living machines that belong to no live run, to be ended."""
    strays = resources.looked(session, body)
    for machine in body.lost:
        tasks.machine_lost(session, machine)
    session.commit()
    return strays
