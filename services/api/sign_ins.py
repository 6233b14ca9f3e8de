"""Browsers that are signed in: a random token in a cookie, its SHA-256 in Postgres beside the key that opened."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from services.api.auth import ID_DIGITS, digest
from services.api.problems import ProblemError
from services.api.tables import KeyRow, SignInRow

IDLE_HOURS = 12
NOTED_MINUTES = 1  # that somebody was there is written no more often


@dataclass(frozen=True)
class Visitor:
    """Who looks. `sign_in` is the digest of the cookie's token."""

    role: Literal["viewer", "operator"]
    key_id: str
    label: str
    sign_in: str

    @property
    def operates(self) -> bool:
        return self.role == "operator"


def begin(session: Session, key: str) -> str:
    """The token for the cookie. 401 for a key that is not valid, or a worker's."""
    row = session.get(KeyRow, digest(key))
    if row is None or row.revoked_at is not None:
        raise ProblemError(401, "unknown_key", "This key is not valid.", "Ask an operator for a new one.")
    if row.role == "worker":
        raise ProblemError(401, "wrong_role", "This is a worker's key.", "Sign in with a viewer or an operator key.")
    session.execute(delete(SignInRow).where(SignInRow.seen_at < _idle_since()))
    token = secrets.token_urlsafe(32)
    session.add(SignInRow(digest=digest(token), key_digest=row.digest))
    session.flush()
    return token


def visitor(session: Session, sign_in: str) -> Visitor | None:
    """Who holds the token with this digest; None once it was idle for 12 hours or its key is revoked. Notes that it was used."""
    found = session.execute(
        select(KeyRow.role, KeyRow.label, KeyRow.digest, SignInRow.seen_at < _minute_ago())
        .join(SignInRow, SignInRow.key_digest == KeyRow.digest)
        .where(SignInRow.digest == sign_in, SignInRow.seen_at >= _idle_since(), KeyRow.revoked_at.is_(None))
    ).one_or_none()
    if found is None:
        return None
    role, label, key, long_ago = found
    if long_ago:
        session.execute(update(SignInRow).where(SignInRow.digest == sign_in).values(seen_at=func.now()))
    return Visitor(
        role="operator" if role == "operator" else "viewer", key_id=f"key_{key[:ID_DIGITS]}", label=label, sign_in=sign_in
    )


def end(session: Session, sign_in: str) -> None:
    session.execute(delete(SignInRow).where(SignInRow.digest == sign_in))


def _idle_since() -> ColumnElement[datetime]:
    return func.now() - func.make_interval(0, 0, 0, 0, IDLE_HOURS)


def _minute_ago() -> ColumnElement[datetime]:
    return func.now() - func.make_interval(0, 0, 0, 0, 0, NOTED_MINUTES)
