"""What every page has: its frame, its visitor, its way to the database, and how it acts.

    async def show(run_id: str) -> None:
        with shell.page("A run", here="runs") as visitor:
            run = await shell.read(lambda session: runs.get(session, run_id))
            ui.label(run.name)
            if visitor.operates:
                ui.button("Pause", on_click=lambda: shell.act(lambda session, by: runs.ask(…, PauseRequested(by=by))))

A page is a function in the table of `dashboard/__init__.py`. What a problem says is drawn in its place, with its HTTP status.
"""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from nicegui import Client, run, ui
from nicegui import app as nicegui_app
from sqlalchemy.orm import Session
from starlette.datastructures import State

from reflux.artifacts import Artifacts
from reflux.views import Problem
from services.api import sign_ins
from services.api.database import AWAY
from services.api.problems import ProblemError
from services.api.sign_ins import Visitor

log = structlog.get_logger()
T = TypeVar("T")

PLACES = (
    ("runs", "/", "Runs", "view_list"),
    ("new", "/new", "New run", "add_circle_outline"),
    ("compare", "/compare", "Compare", "compare_arrows"),
    ("playground", "/playground", "Playground", "science"),
    ("system", "/system", "System", "dns"),
)
LOOKS = ("auto", "light", "dark")
LOOK_ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}
LOOK_COOKIE = "reflux_look"


def state() -> State:
    """The API's `app.state`: engine, settings, listener, prices, pages, readiness."""
    known: State = nicegui_app.state.reflux
    return known


def session() -> Session:
    """For reading, outside of the event loop: `await run.io_bound(…)`, or `await shell.read(…)`."""
    return Session(state().reads, expire_on_commit=False)


async def read(query: Callable[[Session], T]) -> T:
    """What `query` finds, asked in a thread."""

    def ask() -> T:
        with session() as reading:
            return query(reading)

    return await _in_thread(ask)


def artifacts() -> Artifacts:
    """The artifact store, outside of the event loop; made when it is first needed, as for REST."""
    if state().artifacts is None:
        state().artifacts = Artifacts(state().settings.artifacts_url)
    store: Artifacts = state().artifacts
    return store


async def act(work: Callable[[Session, str], T], said: str = "", problem: Callable[[Problem], object] | None = None) -> T | None:
    """Do as an operator, in one transaction, what `work(session, by)` does. None, and the reason shown, if it could not be done.

    Whether the visitor may is looked up again: a key may have been revoked since the page was drawn. `problem` shows the reason
    in a place of the page's own.
    """
    client = ui.context.client
    known = visitor()

    def do() -> T:
        with Session(state().engine, expire_on_commit=False) as writing:
            done = work(writing, _operator(writing, known))
            writing.commit()
            return done

    try:
        done = await _in_thread(do)
    except ProblemError as error:
        if error.status_code == 401:
            client.open("/sign-in")
        if problem is not None:
            problem(error.problem)
        else:
            ui.notify(f"{error.problem.detail} {error.problem.hint}", type="negative", multi_line=True)
        return None
    except AWAY:
        ui.notify("The database can't be reached. Nothing was changed; try again in a moment.", type="negative", multi_line=True)
        return None
    if said:
        ui.notify(said, type="positive")
    return done


async def operator() -> str:
    """Who acts, for what is not done in one transaction. ProblemError where the visitor may not, or not any more."""
    known = visitor()
    return await read(lambda session: _operator(session, known))


def _operator(session: Session, known: Visitor) -> str:
    now = sign_ins.visitor(session, known.sign_in)
    if now is None:
        raise ProblemError(401, "signed_out", "You are not signed in any more.", "Sign in again.")
    if not now.operates:
        raise ProblemError(403, "wrong_role", "A viewer's key can look, and not act.", "Sign in with an operator key.")
    return now.label


def visitor() -> Visitor:
    """Who looks at the page in hand."""
    known: Visitor = ui.context.client.request.state.visitor
    return known


@contextmanager
def page(title: str, here: str = "") -> Iterator[Visitor]:
    """The frame of a page; its content is the main landmark. `here` is the place in the navigation."""
    client = ui.context.client
    client.title = f"{title} · Reflux"
    _frame(client, here)
    try:
        yield visitor()
    except ProblemError as error:
        client.status_code = error.status_code
        client.content.clear()
        sorry(error.problem.detail, error.problem.hint)
    except AWAY as error:
        log.warning("database_away", page=title, error=str(getattr(error, "orig", error)).split("\n")[0][:200])
        client.status_code = 503
        client.content.clear()
        sorry("The database can't be reached.", "Nothing is lost, and runs go on. Load the page again in a moment.")


def sorry(happened: str, hint: str = "") -> None:
    """What went wrong, and what to do, in place of a page."""
    with ui.element("section").classes("sorry"):
        ui.icon("sentiment_dissatisfied", size="40px")
        heading(happened, 1)
        if hint:
            ui.label(hint).classes("quiet")
        ui.link("All runs", "/")


def deleted() -> None:
    """In place of a page whose run somebody has deleted meanwhile."""
    client = ui.context.client
    client.title = "Deleted · Reflux"
    client.content.clear()
    with client.content:
        sorry("This run was deleted.", "Somebody has deleted it while this page was open. The list shows the runs there are.")


def unknown() -> None:
    """The page of an address that none has."""
    with page("Nothing here"):
        raise ProblemError(404, "page_not_found", "There is no page at this address.", "Follow a link from the list of runs.")


def broken(error: Exception) -> None:
    """The page of a defect. What it was stands in the log."""
    log.error("page_broken", path=ui.context.client.request.url.path, exc_info=error)
    ui.context.client.title = "Reflux"
    sorry(
        "This page could not be drawn: a defect in Reflux.",
        "Runs are not touched by it. The API's log has the traceback; report it.",
    )


def leave(sign_in: str) -> None:
    """Every open page of a browser that has just signed out."""
    for client in list(Client.instances.values()):
        if client.request.scope.get("state", {}).get("visitor", None) and client.request.state.visitor.sign_in == sign_in:
            client.open("/sign-in")


def heading(words: str, level: int = 2) -> ui.html:
    return text(words, f"h{level}")


def text(words: str, tag: str = "span", classes: str = "") -> ui.html:
    """Plain words in an element of this tag; nothing in them is read as HTML."""
    return ui.html(html.escape(words), sanitize=False, tag=tag).classes(classes)


def chip(look: Any, **attributes: str) -> ui.element:
    """A word with its icon and colour; `look` is one of words.py."""
    with ui.element("span").classes(f"chip tone-{look.tone}") as made:
        ui.icon(look.icon).props("aria-hidden=true")
        text(look.word)
    if look.told:
        made.props["title"] = look.told
    for name, value in attributes.items():
        made.props[name] = value
    return made


def _frame(client: Client, here: str) -> None:
    """NiceGUI's own page is the main landmark; the header stands before it."""
    main = client.content.parent_slot.parent  # type: ignore[union-attr]
    main.props("id=main tabindex=-1")
    client.content.classes("main")
    with client.layout:
        with ui.element("a").props('href="#main"').classes("skip") as skip:
            text("Skip to content")
        with ui.element("header").classes("top") as header:
            _header(here)
    header.move(target_index=0)
    skip.move(target_index=0)


def _header(here: str) -> None:
    with ui.element("a").props('href="/" aria-label="Reflux, all runs"').classes("brand"):
        ui.html(MARK, sanitize=False, tag="span").props("aria-hidden=true")
        text("Reflux", classes="brand-name")
    with ui.element("nav").props('aria-label="Pages"').classes("places"):
        for name, path, word, icon in PLACES:
            current = ' aria-current="page"' if name == here else ""
            with ui.element("a").props(f'href="{path}"{current} title="{word}"').classes("place"):
                ui.icon(icon).props("aria-hidden=true")
                text(word)
    _who()


def _who() -> None:
    known = visitor()
    chosen = ui.context.client.request.cookies.get(LOOK_COOKIE, "auto")
    dark = ui.dark_mode({"light": False, "dark": True}.get(chosen))
    if chosen == "dark":
        ui.add_head_html("<style>html { background: #10161d; }</style>")
    with ui.element("div").classes("who"):
        with ui.button(icon=LOOK_ICONS.get(chosen, LOOK_ICONS["auto"])).props("flat round dense") as switch:
            pass
        switch.props["aria-label"] = f"Colours: {chosen}. Change"

        def turn() -> None:
            nonlocal chosen
            chosen = LOOKS[(LOOKS.index(chosen) + 1) % len(LOOKS)] if chosen in LOOKS else "light"
            dark.value = {"light": False, "dark": True}.get(chosen)
            switch.props["icon"] = LOOK_ICONS[chosen]
            switch.props["aria-label"] = f"Colours: {chosen}. Change"
            switch.update()
            ui.run_javascript(f"document.cookie = '{LOOK_COOKIE}={chosen}; path=/; max-age=31536000; samesite=lax'")

        switch.on_click(turn)
        ui.label(f"{known.label} · {known.role}").classes("quiet who-name").props["title"] = known.key_id
        with ui.element("form").props('method="post" action="/sign-out"'):
            ui.button(icon="logout").props('flat round dense type=submit aria-label="Sign out" title="Sign out"')


async def _in_thread(work: Callable[[], T]) -> T:
    done: T = await run.io_bound(work)  # type: ignore[assignment]  # None only once the server shuts down
    return done


MARK = (
    '<svg viewBox="0 0 24 24" width="22" height="22" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round">'
    '<path d="M4 12a8 8 0 0 1 13.7-5.6L20 9"/><path d="M20 4v5h-5"/><path d="M20 12a8 8 0 0 1-13.7 5.6L4 15"/>'
    '<path d="M4 20v-5h5"/></svg>'
)
FAVICON = MARK.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ').replace("currentColor", "#2f7d8c")
