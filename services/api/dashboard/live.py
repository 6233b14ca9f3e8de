"""Pages that follow runs: Postgres rings, and the page looks again, a few times a second at most, until its client goes.

Follow first, then read: what moves in between rings too. A page whose connection was away for long loads itself anew.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

import structlog
from nicegui import Client, background_tasks, run, ui
from nicegui.element import Element

from services.api import sign_ins
from services.api.dashboard import shell
from services.api.database import AWAY
from services.api.listening import ANY, Listener
from services.api.problems import ProblemError
from services.api.sign_ins import Visitor

log = structlog.get_logger()

REST_SECONDS = {True: 0.4, False: 0.8}  # of one run, of any: between two looks
SIGN_IN_SECONDS = 30.0
Callback = Callable[[], Awaitable[None] | None]


def follow_run(run_id: str, callback: Callback) -> None:
    """Call `callback`, in the page's own place, whenever this run has moved or made progress. Deleted, the page says so."""
    _follow(run_id, callback)


def follow_all(callback: Callback) -> None:
    """The same for any run."""
    _follow(ANY, callback)


def _follow(key: str, callback: Callback) -> None:
    client, place = ui.context.client, ui.context.slot.parent
    listener: Listener = shell.state().listener
    watching = listener.watched(key)
    rung = watching.__enter__()
    told = _told(client, place, shell.visitor(), rung, REST_SECONDS[key != ANY], callback)
    following = background_tasks.create(told, name=f"follow {key or 'all'}")
    following.add_done_callback(lambda _: watching.__exit__(None, None, None))
    client.on_delete(following.cancel)


async def _told(client: Client, place: Element, visitor: Visitor, rung: asyncio.Event, rest: float, callback: Callback) -> None:
    seen_at = time.monotonic()
    while True:
        await rung.wait()
        await client.connected()
        if client.is_deleted:
            return
        rung.clear()
        try:
            if time.monotonic() - seen_at > SIGN_IN_SECONDS:
                seen_at = time.monotonic()
                if await run.io_bound(_gone, visitor):
                    client.open("/sign-in")
                    return
            with place:
                called = callback()
                if inspect.isawaitable(called):
                    await called
        except ProblemError as error:
            if error.problem.code != "run_not_found":
                raise
            with place:
                shell.deleted()
            return
        except AWAY:
            log.warning("database_away", during="follow")
            rung.set()
            await asyncio.sleep(1)
        await asyncio.sleep(rest)


def _gone(visitor: Visitor) -> bool:
    with shell.session() as session:
        return sign_ins.visitor(session, visitor.sign_in) is None
