"""The address of a page that changes what it shows without being loaded anew: pushed when somebody chooses, heard on back."""

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qsl, urlencode

from nicegui import ui
from nicegui.events import GenericEventArguments

MOVED = "reflux_moved"


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
    ui.run_javascript(f"window.addEventListener('popstate', () => emitEvent('{MOVED}', location.search))")
