"""One database session a request, closed before the answer is sent. A route commits first: what is answered has happened."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from reflux.artifacts import Artifacts
from services.api.settings import Settings


def session_of(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine, expire_on_commit=False) as session:
        yield session


async def reading(request: Request) -> AsyncIterator[Session]:
    """Without a transaction, so that it costs no round trip to open or to close it, and the event loop may do both."""
    session = Session(request.app.state.reads, expire_on_commit=False)
    try:
        yield session
    finally:
        session.close()


async def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def artifacts_of(request: Request) -> Artifacts:
    """Made when it is first needed: the API starts, and runs can be steered, while the store is away."""
    state = request.app.state
    if state.artifacts is None:
        state.artifacts = Artifacts(state.settings.artifacts_url)
    artifacts: Artifacts = state.artifacts
    return artifacts


# A stream lives for hours: it must not hold a connection of the pool.
Database = Annotated[Session, Depends(session_of, scope="function")]
Reading = Annotated[Session, Depends(reading, scope="function")]
Configured = Annotated[Settings, Depends(settings_of)]
Stored = Annotated[Artifacts, Depends(artifacts_of)]
