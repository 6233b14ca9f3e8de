"""The address of a page that changes what it shows without being loaded anew: pushed when somebody chooses, heard on back."""

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl, urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments

MOVED = "reflux_moved"
# Whoever goes back before the page can tell its server so is heard as soon as it can.
LISTEN = f"""
window.addEventListener('popstate', () => emitEvent('{MOVED}', location.search));
const loaded = new URL(performance.getEntriesByType('navigation')[0].name).search;
if (loaded !== location.search) emitEvent('{MOVED}', location.search);
"""
IN_PLACE = "(event) => { if (event.ctrlKey || event.metaKey || event.shiftKey) return; event.preventDefault(); emit(); }"


def query(values: Mapping[str, object]) -> str:
    """`?a=1&b=2` of what is not empty."""
    given = {name: value for name, value in values.items() if value not in ("", None)}
    return f"?{urlencode(given)}" if given else ""


def push(address: str) -> None:
    ui.navigate.history.push(address)


def on_move(callback: Callable[[dict[str, str]], Awaitable[None]]) -> None:
    """Call with the query of the address whenever somebody went back or forward within this page."""

    async def moved(event: GenericEventArguments) -> None:
        await callback(dict(parse_qsl(str(event.args).removeprefix("?"))))

    ui.on(MOVED, moved)
    ui.run_javascript(LISTEN)


def link(target: str, follow: Callable[[], Awaitable[None]], css: str, *, current: bool = False) -> ui.element:
    """A real link, to be opened elsewhere or kept; a plain click follows it in place."""
    made = ui.element("a").classes(css)
    made.props["href"] = target
    if current:
        made.props["aria-current"] = "true"
    return made.on("click", follow, js_handler=IN_PLACE)
