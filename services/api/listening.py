"""Runs' events as they happen: one listener a process hears Postgres' notifications, and wakes the readers of that run."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from reflux.stages import Stage
from services.api import history
from services.api.advance import CHANNEL
from services.api.tables import RunRow

log = structlog.get_logger()

PAGE = 500
LOOK_ANYWAY_SECONDS = 15.0  # should a notification have been lost
Sent = dict[str, Any]


@dataclass(eq=False)
class Feed:
    """One run's readers. Those that stand at the same place share one look into Postgres, if it began after the last ring."""

    run_id: str
    readers: int = 0
    rings: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    looks: dict[tuple[int, int], asyncio.Task[tuple[list[tuple[int, Sent]], bool]]] = field(default_factory=dict)

    def ring(self) -> None:
        self.rings += 1
        self.woken.set()
        self.woken = asyncio.Event()


class Listener:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.feeds: dict[str, Feed] = {}

    async def listen(self) -> None:
        """For as long as the process lives. After each gap everybody is woken: something may have been missed."""
        url = self.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=5) as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    for known in self.feeds.values():
                        known.ring()
                    async for notice in connection.notifies():
                        if feed := self.feeds.get(notice.payload):
                            feed.ring()
            except psycopg.Error as error:
                log.warning("database_away", during="listen", error=str(error)[:200])
            await asyncio.sleep(1)

    async def follow(self, run_id: str, after: int) -> AsyncIterator[Sent]:
        """Every event after `after`, each once and in order, until the run is over."""
        feed = self.feeds.setdefault(run_id, Feed(run_id))
        feed.readers += 1
        try:
            while True:
                rings, woken = feed.rings, feed.woken
                try:
                    page, over = await self._look(feed, after, rings)
                except (DBAPIError, PoolTimeout):
                    await asyncio.sleep(1)
                    continue
                for seq, sent in page:
                    yield sent
                    after = seq
                if over and not page:
                    return
                if not page:
                    await _wait(woken)
        finally:
            feed.readers -= 1
            if not feed.readers:
                self.feeds.pop(run_id, None)

    async def _look(self, feed: Feed, after: int, rings: int) -> tuple[list[tuple[int, Sent]], bool]:
        look = feed.looks.get((after, rings))
        if look is None:
            look = asyncio.create_task(run_in_threadpool(_read, self.engine, feed.run_id, after))
            feed.looks[after, rings] = look
            look.add_done_callback(lambda _: feed.looks.pop((after, rings), None))
        return await asyncio.shield(look)


async def _wait(woken: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(LOOK_ANYWAY_SECONDS):
            await woken.wait()
    except TimeoutError:
        pass


def _read(engine: Engine, run_id: str, after: int) -> tuple[list[tuple[int, Sent]], bool]:
    """Events as they are sent, and whether the run is over (or deleted) and there will be no more."""
    with Session(engine) as session:
        stage = session.scalar(select(RunRow.stage).where(RunRow.id == run_id))
        over = stage is None or Stage(stage).terminal
        page = history.events(session, run_id, after, PAGE)
    return [
        (event.seq, {"id": str(event.seq), "event": event.type, "data": json.dumps(event.model_dump(mode="json"))})
        for event in page
    ], over
