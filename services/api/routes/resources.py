"""/v1/resources: machines that exist only for a run; for people what is left, for teacher workers what to look at."""

from fastapi import APIRouter, Response

from reflux.machines import Duties, Interruption, Looked, Machine
from reflux.views import ResourceView
from services.api import machine_watch, resources
from services.api.auth import AtWork, Viewer, Worker
from services.api.problems import ProblemError
from services.api.session import Configured, Database

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
def looked(_: Worker, session: Database, settings: Configured, body: Looked) -> list[Machine]:
    """Note what was found. The answer: living machines that belong to no live run, to be ended."""
    strays = resources.looked(session, body)
    session.commit()
    for found in body.seen:  # each by itself: two runs' locks are never held at once
        machine_watch.seen(session, found)
        session.commit()
    for machine in body.lost:
        machine_watch.found_lost(session, settings, machine)
        session.commit()
    return strays


@router.post("/resources/interrupted", status_code=204, tags=["workers"])
def interrupted(key: AtWork, session: Database, body: Interruption) -> Response:
    """A spot machine says that its provider takes it back. It saves what it has in hand, and gives it back to the run."""
    if key.run_id is None:
        raise ProblemError(403, "wrong_role", "Only the machine of a run can be taken back.", "Answer rings instead.")
    machine_watch.interrupted(session, key.run_id, key.label, body)
    session.commit()
    return Response(status_code=204)
