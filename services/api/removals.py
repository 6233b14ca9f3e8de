"""What retention has taken from a run, for whoever asks for it: said with its day, instead of not being found."""

from pathlib import PurePosixPath

from sqlalchemy import select
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts
from reflux.views import Removable, RemovedView
from services.api import files
from services.api.files import Piece
from services.api.problems import ProblemError
from services.api.tables import RemovalRow

WORKING = ("tasks", "pieces")  # the folders of what a run made on its way


def of_run(session: Session, run_id: str) -> list[RemovedView]:
    query = select(RemovalRow).where(RemovalRow.run_id == run_id, RemovalRow.count > 0).order_by(RemovalRow.at, RemovalRow.what)
    return [
        RemovedView(what=row.what, why=row.why, at=row.at, count=row.count, bytes=row.bytes) for row in session.scalars(query)
    ]


def refuse_if_gone(session: Session, run_id: str, what: Removable) -> None:
    """410 for what was there once."""
    for removed in of_run(session, run_id):
        if removed.what == what:
            hint = "What it exported, and its report, are kept for longer: list its artifacts."
            raise ProblemError(410, "removed_by_retention", f"Run {run_id}: {removed.told}", hint)


def find(session: Session, artifacts: Artifacts, run_id: str, path: str, wanted: str | None = None) -> Piece:
    """As `files.find`; 410 where retention has removed such files of the run."""
    try:
        return files.find(artifacts, run_id, path, wanted)
    except ProblemError as error:
        what = kind_of(path)
        if error.status_code == 404 and what is not None:
            refuse_if_gone(session, run_id, what)
        raise


def kind_of(path: str) -> Removable | None:
    """`path` is below the run's folder. The JSONs that tell of the run stay."""
    parts = PurePosixPath(path).parts
    if len(parts) == 1 and path.endswith(".json"):
        return None
    return "artifacts" if parts and parts[0] in WORKING else "results"
