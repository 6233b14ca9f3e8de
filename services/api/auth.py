"""Bearer keys: random, shown once, kept as SHA-256. Roles: viewer < operator; worker apart."""

import hashlib
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine, exists, func, or_, select
from sqlalchemy.orm import Session

from reflux.views import KeyView, Role
from services.api.problems import ProblemError
from services.api.rates import Buckets
from services.api.settings import Settings
from services.api.tables import KeyRow, RunRow

ALLOWS: dict[str, tuple[Role, ...]] = {"viewer": ("viewer",), "operator": ("viewer", "operator"), "worker": ("worker",)}
TRUSTED_SECONDS = 1.0
ID_DIGITS = 16  # of the digest: enough to tell keys apart, too few to find one by

bearer = HTTPBearer(auto_error=False, description="A key made by `POST /v1/keys`")


def new_key(session: Session, role: Role, label: str, secret: str | None = None) -> str:
    """Make a key valid; the answer is the only time it is seen. A known secret stays as it is."""
    secret = secret or f"rfx_{secrets.token_urlsafe(32)}"
    known = session.get(KeyRow, digest(secret))
    if known is None:
        session.add(KeyRow(digest=digest(secret), role=role, label=label))
        session.flush()
    return secret


def machine_key(session: Session, run_id: str, label: str) -> str:
    """A key for the machine that exists only for this run: for its tasks, under its name, and until the run is over."""
    secret = f"rfx_{secrets.token_urlsafe(32)}"
    session.add(KeyRow(digest=digest(secret), role="machine", label=label, run_id=run_id))
    session.flush()
    return secret


def bootstrap(session: Session, settings: Settings) -> None:
    """Make the keys of the settings valid, for a stack that brings its own."""
    if settings.operator_key:
        new_key(session, "operator", "bootstrap", settings.operator_key.get_secret_value())
    if settings.worker_key:
        new_key(session, "worker", "bootstrap", settings.worker_key.get_secret_value())
    if settings.viewer_key:
        new_key(session, "viewer", "bootstrap", settings.viewer_key.get_secret_value())


def all_keys(session: Session) -> list[KeyView]:
    people_s = select(KeyRow).where(KeyRow.run_id.is_(None)).order_by(KeyRow.created_at, KeyRow.digest)
    return [key_view(row) for row in session.scalars(people_s)]


def revoke(session: Session, key_id: str) -> None:
    """Once more is no error. 409 for the last key that can make others."""
    operators = list(session.scalars(select(KeyRow).where(KeyRow.role == "operator").with_for_update()))
    row = session.scalar(select(KeyRow).where(func.left(KeyRow.digest, ID_DIGITS) == key_id.removeprefix("key_")))
    if row is None:
        raise ProblemError(404, "key_not_found", f"There is no key {key_id}.", "List the keys there are.")
    if row.revoked_at is None and [key for key in operators if key.revoked_at is None] == [row]:
        raise ProblemError(409, "last_operator", "This is the last valid operator key.", "Make another one first.")
    row.revoked_at = row.revoked_at or func.now()


def key_view(row: KeyRow) -> KeyView:
    return KeyView(
        id=f"key_{row.digest[:ID_DIGITS]}",
        role=row.role,
        label=row.label,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True)
class Key:
    """`run_id`: the one run that a machine's key is good for."""

    role: str
    label: str
    run_id: str | None
    seen_at: float


class Keys:
    """Valid keys by digest, each looked up again after a second: a call in between costs Postgres nothing.

    Looking up a digest leaks no timing of the key itself.
    """

    def __init__(self, reads: Engine) -> None:
        self.reads = reads
        self.seen: dict[str, Key] = {}

    def recent(self, known: str) -> Key | None:
        key = self.seen.get(known)
        return key if key and time.monotonic() - key.seen_at < TRUSTED_SECONDS else None

    def look_up(self, known: str) -> Key | None:
        live = exists().where(RunRow.id == KeyRow.run_id, RunRow.ended_at.is_(None))
        query = select(KeyRow.role, KeyRow.label, KeyRow.run_id).where(
            KeyRow.digest == known, KeyRow.revoked_at.is_(None), or_(KeyRow.run_id.is_(None), live)
        )
        with self.reads.connect() as connection:
            found = connection.execute(query).one_or_none()
        if found is None:
            self.seen.pop(known, None)
            return None
        key = self.seen[known] = Key(found.role, found.label, found.run_id, time.monotonic())
        return key

    def forget(self) -> None:
        self.seen.clear()


def needs(role: Role) -> Callable[..., Awaitable[str]]:
    """A dependency: the label of a key that may act in `role`, or 401 / 403 / 429."""

    async def check(request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
        if sent is None:
            raise _unknown("no_key", "This call needs a key.", "Send `Authorization: Bearer <key>`.")
        known = digest(sent.credentials)
        keys: Keys = request.app.state.keys
        key = keys.recent(known) or await run_in_threadpool(keys.look_up, known)
        if key is None:
            raise _unknown("unknown_key", "This key is not valid.", "Ask an operator for a new one.")
        if role not in ALLOWS.get(key.role, ()):
            raise ProblemError(403, "wrong_role", f"A {key.role} key can't do this; it needs {role}.", "Use another key.")
        buckets: Buckets = request.app.state.buckets
        wait = 0.0 if key.role == "worker" else buckets.take(known)
        if wait:
            hint = "Wait for the seconds of Retry-After; follow events instead of asking again and again."
            told = f"This key may call {buckets.per_minute} times a minute."
            raise ProblemError(429, "too_many_requests", told, hint, headers={"Retry-After": str(math.ceil(wait))})
        return key.label

    return check


def _unknown(code: str, detail: str, hint: str) -> ProblemError:
    return ProblemError(401, code, detail, hint, headers={"WWW-Authenticate": "Bearer"})


async def at_work(request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Key:
    """A worker's key, or a machine's, which may only do what concerns its own run: 401 / 403."""
    known = digest(sent.credentials) if sent else ""
    keys: Keys = request.app.state.keys
    key = (keys.recent(known) or await run_in_threadpool(keys.look_up, known)) if sent else None
    if key is None or key.role != "machine":
        label = await needs("worker")(request, sent)
        return Key("worker", label, None, 0.0)
    return key


Viewer = Annotated[str, Depends(needs("viewer"))]
Operator = Annotated[str, Depends(needs("operator"))]
Worker = Annotated[str, Depends(needs("worker"))]
AtWork = Annotated[Key, Depends(at_work)]
