"""One database session a request. A route commits before it answers: what is answered has happened."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from services.api.settings import Settings


def session_of(request: Request) -> Iterator[Session]:
    with Session(request.app.state.engine, expire_on_commit=False) as session:
        yield session


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


Database = Annotated[Session, Depends(session_of)]
Configured = Annotated[Settings, Depends(settings_of)]
