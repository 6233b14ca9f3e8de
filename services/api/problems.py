"""Errors as application/problem+json (RFC 9457): what happened, and what to do. Never a 500 for bad input."""

import json

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic_core import PydanticSerializationError
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from reflux.errors import RefluxError
from reflux.spec import FieldProblem
from reflux.views import Problem
from services.api.database import AWAY

log = structlog.get_logger()

UNDONE = "40"  # SQLSTATE class: a serialization failure, a deadlock

TITLES = {
    400: "Bad request",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "No such method here",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Not a form that is read here",
    416: "No such range",
    422: "Malformed",
    429: "Too many requests",
    503: "Not ready",
}


class ProblemError(HTTPException):
    """An answer other than success, with what to do about it."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        hint: str = "",
        errors: list[FieldProblem] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.problem = Problem(
            title=TITLES.get(status, "Error"), status=status, detail=detail, code=code, hint=hint, errors=errors or []
        )


def answer(error: ProblemError) -> Response:
    """A lone surrogate that the words repeat is a question mark here: UTF-8 can't hold it."""
    problem = error.problem
    content = json.dumps(problem.model_dump(mode="json"), ensure_ascii=False).encode(errors="replace")
    return Response(content, status_code=problem.status, media_type="application/problem+json", headers=error.headers)


def install(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    def _problem(_: Request, error: ProblemError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    def _malformed(_: Request, error: RequestValidationError) -> Response:
        fields = [
            FieldProblem(field=".".join(str(p) for p in e["loc"] if p != "body"), message=e["msg"], hint="See docs/api.md.")
            for e in error.errors()
        ]
        return answer(ProblemError(422, "malformed", "The request does not have the form that this call takes.", errors=fields))

    @app.exception_handler(UnicodeEncodeError)
    @app.exception_handler(PydanticSerializationError)
    def _half_a_character(_: Request, error: Exception) -> Response:
        """What was sent held it: neither Postgres nor an answer takes it, so nothing has happened."""
        if "surrogates not allowed" not in str(error):
            raise error
        return answer(ProblemError(422, "malformed", "A text holds half of a surrogate pair.", "Send whole characters."))

    @app.exception_handler(HTTPException)
    def _http(_: Request, error: HTTPException) -> Response:
        told, hint = str(error.detail), "GET /openapi.json lists the calls."
        return answer(ProblemError(error.status_code, "http_error", told, hint, headers=dict(error.headers or {})))

    @app.exception_handler(RefluxError)
    def _store(request: Request, error: RefluxError) -> Response:
        log.warning("artifacts_away", path=request.url.path, error=str(error)[:200])
        return answer(ProblemError(503, error.code, "The artifact store did not answer as it should.", error.hint))

    @app.exception_handler(DataError)
    def _not_storable(_: Request, error: DataError) -> Response:
        """What pydantic lets pass and Postgres does not: NUL in a text, a number beyond its column."""
        return answer(ProblemError(422, "malformed", f"A value can't be stored: {str(error.orig).splitlines()[0][:200]}"))

    def _database(request: Request, error: Exception) -> Response:
        cause = getattr(error, "orig", error)
        # The first line alone: those after it may hold what was sent.
        log.warning("database_away", path=request.url.path, error=str(cause).split("\n")[0][:200])
        again, hint = {"Retry-After": "1"}, "Nothing is lost; try again in a moment."
        if (getattr(cause, "sqlstate", None) or "").startswith(UNDONE):
            told = "Another call changed the same at that moment, and this one was undone."
            return answer(ProblemError(503, "undone", told, hint, headers=again))
        return answer(ProblemError(503, "database_away", "The database can't be reached.", hint, headers=again))

    for away in AWAY:
        app.add_exception_handler(away, _database)
