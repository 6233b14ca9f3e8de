"""Runs' events as they happen: one listener a process hears Postgres' notifications, and wakes the readers of that run."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from reflux.stages import Stage
from services.api import errand_desk, history
from services.api.advance import CHANNEL, PROGRESS
from services.api.database import AWAY
from services.api.tables import RunRow

log = structlog.get_logger()

PAGE = 500
LOOK_ANYWAY_SECONDS = 60.0
TURN_SECONDS = 0.0005  # readers of one run are woken one after the other, so that no other call waits for them all
ANY = ""
Page = list[tuple[int, bytes]]  # of events as they are sent, each with its `seq`


@dataclass(eq=False)
class Feed:
    """One run's readers. Those that stand at the same place share one look into Postgres, until the run rings again."""

    run_id: str
    readers: int = 0
    rings: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    looks: dict[int, asyncio.Task[tuple[Page, bool]]] = field(default_factory=dict)

    def ring(self) -> None:
        self.rings += 1
        self.looks = {}
        self.woken.set()
        self.woken = asyncio.Event()


class Listener:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reads = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.feeds: dict[str, Feed] = {}
        self.watches: dict[str, set[asyncio.Event]] = {}

    async def listen(self) -> None:
        """For as long as the process lives. Now and then, and after a gap, everybody is woken: a ring may be lost."""
        url = self.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=5) as connection:
                    await connection.execute(f"listen {CHANNEL}")
                    await connection.execute(f"listen {PROGRESS}")
                    await connection.execute(f"listen {errand_desk.CHANNEL}")
                    while True:
                        self._ring_all()
                        async for notice in connection.notifies(timeout=LOOK_ANYWAY_SECONDS):
                            if notice.channel == CHANNEL and (feed := self.feeds.get(notice.payload)):
                                feed.ring()
                            of_runs = self.watches.get(ANY, ()) if notice.channel != errand_desk.CHANNEL else ()
                            for watch in (*self.watches.get(notice.payload, ()), *of_runs):
                                watch.set()
            except psycopg.Error as error:
                log.warning("database_away", during="listen", error=str(error)[:200])
            await asyncio.sleep(1)

    @contextmanager
    def watched(self, run_id: str = ANY) -> Iterator[asyncio.Event]:
        """An event that is set whenever the run, or any, has moved or made progress; whoever waits clears it."""
        watch = asyncio.Event()
        self.watches.setdefault(run_id, set()).add(watch)
        try:
            yield watch
        finally:
            self.watches[run_id].discard(watch)
            if not self.watches[run_id]:
                del self.watches[run_id]

    def _ring_all(self) -> None:
        for feed in list(self.feeds.values()):
            feed.ring()
        for watches in self.watches.values():
            for watch in watches:
                watch.set()

    async def follow(self, run_id: str, after: int) -> AsyncIterator[bytes]:
        """Every event after `after`, each once and in order, until the run is over."""
        feed = self.feeds.setdefault(run_id, Feed(run_id))
        turn = feed.readers % 1000 * TURN_SECONDS
        feed.readers += 1
        try:
            while True:
                woken = feed.woken
                try:
                    page, over = await self._look(feed, after)
                except AWAY:
                    feed.looks = {}
                    await asyncio.sleep(1)
                    continue
                if page:
                    after = page[-1][0]
                    yield b"".join(sent for _, sent in page)
                if len(page) == PAGE:
                    continue
                if over:
                    return
                await woken.wait()
                await asyncio.sleep(turn)
        finally:
            feed.readers -= 1
            if not feed.readers:
                self.feeds.pop(run_id, None)

    async def _look(self, feed: Feed, after: int) -> tuple[Page, bool]:
        look = feed.looks.get(after)
        if look is None:
            look = feed.looks[after] = asyncio.create_task(run_in_threadpool(_read, self.reads, feed.run_id, after))
        return await asyncio.shield(look)


def _read(engine: Engine, run_id: str, after: int) -> tuple[Page, bool]:
    """The next events, and whether the run is over (or deleted): then there will be none after these."""
    with Session(engine) as session:
        stage = session.scalar(select(RunRow.stage).where(RunRow.id == run_id))
        over = stage is None or Stage(stage).terminal
        page = history.events(session, run_id, after, PAGE)
    return [(e.seq, f"id: {e.seq}\nevent: {e.type}\ndata: {e.model_dump_json()}\n\n".encode()) for e in page], over
