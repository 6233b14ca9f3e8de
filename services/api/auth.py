"""Bearer keys: random, shown once, kept as SHA-256. Roles: viewer < operator; worker apart."""

import hashlib
import secrets
from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Depends, Header
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.api.problems import ProblemError
from services.api.session import Database
from services.api.settings import Settings
from services.api.tables import KeyRow

Role = Literal["viewer", "operator", "worker"]

ALLOWS: dict[str, tuple[Role, ...]] = {"viewer": ("viewer",), "operator": ("viewer", "operator"), "worker": ("worker",)}


def new_key(session: Session, role: Role, label: str, secret: str | None = None) -> str:
    """Make a key valid; the answer is the only time it is seen. A known secret stays as it is."""
    secret = secret or f"rfx_{secrets.token_urlsafe(32)}"
    known = session.get(KeyRow, digest(secret))
    if known is None:
        session.add(KeyRow(digest=digest(secret), role=role, label=label))
    return secret


def bootstrap(session: Session, settings: Settings) -> None:
    """Make the keys of the settings valid, for a stack that brings its own."""
    if settings.operator_key:
        new_key(session, "operator", "bootstrap", settings.operator_key.get_secret_value())
    if settings.worker_key:
        new_key(session, "worker", "bootstrap", settings.worker_key.get_secret_value())


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def needs(role: Role) -> Callable[..., str]:
    """A dependency: the label of a key that may act in `role`, or 401 / 403."""

    def check(session: Database, authorization: Annotated[str, Header()] = "") -> str:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise ProblemError(401, "no_key", "This call needs a key.", "Send `Authorization: Bearer <key>`.")
        # Looking up the SHA-256 leaks no timing of the key itself.
        key = session.scalar(select(KeyRow).where(KeyRow.digest == digest(secret), KeyRow.revoked_at.is_(None)))
        if key is None:
            raise ProblemError(401, "unknown_key", "This key is not valid.", "Ask an operator for a new one.")
        if role not in ALLOWS[key.role]:
            raise ProblemError(403, "wrong_role", f"A {key.role} key can't do this; it needs {role}.", "Use another key.")
        return key.label

    return check


Viewer = Annotated[str, Depends(needs("viewer"))]
Operator = Annotated[str, Depends(needs("operator"))]
Worker = Annotated[str, Depends(needs("worker"))]
