"""The dashboard: pages on the API's own app, at `/`. What they show and do, they do by the functions that REST stands on."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Match, Mount
from starlette.types import Scope

from services.api.dashboard import (
    answers,
    compare,
    downloads,
    new_run,
    playground,
    review,
    run,
    runs,
    shell,
    signin,
    style,
    system,
)
from services.api.dashboard.door import Door
from services.api.rates import Buckets

PAGES: dict[str, Callable[..., Any]] = {
    "/": runs.show,
    "/system": system.show,
    "/new": new_run.show,
    "/playground": playground.show,
    "/runs/{run_id}": run.show,
    "/runs/{run_id}/answers": answers.show,
    "/runs/{run_id}/review": review.show,
    "/compare": compare.show,
}
OF_REST = ("/v1/", "/healthz", "/readyz", "/metrics", "/openapi.json")
GUESSES_PER_MINUTE = 20
RECONNECT_SECONDS = 10.0  # for so long a page that lost its connection is kept; after that it loads itself anew


class Dashboard(Mount):
    """Everything that is not of REST: what REST does not know is a problem there, and no page."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"].startswith(OF_REST):
            return Match.NONE, {}
        match, child = super().matches(scope)
        return match, {**child, "endpoint": nicegui_app}  # as `ui.run_with` mounts it; else an unknown page is answered in JSON


def install(app: FastAPI) -> None:
    """Once a process: NiceGUI has one app of its own."""
    app.state.guesses = Buckets(GUESSES_PER_MINUTE)
    app.include_router(signin.router)
    nicegui_app.state.reflux = app.state
    nicegui_app.add_static_file(local_file=style.FILE, url_path=style.address(), max_cache_age=31_536_000)
    nicegui_app.on_page_exception(shell.broken)
    nicegui_app.colors(primary="#2f7d8c", secondary="#5b6b7a", accent="#2f7d8c", positive="#2e7d4f", negative="#b3372f")
    for path, show in PAGES.items():
        ui.page(path, response_timeout=30)(show)
    nicegui_app.add_api_route(downloads.PATH, downloads.download)
    ui.add_head_html(f'<link rel="stylesheet" href="{style.address()}">', shared=True)
    ui.run_with(
        app,
        root=shell.unknown,
        title="Reflux",
        favicon=shell.FAVICON,
        dark=None,
        language="en-US",
        reconnect_timeout=RECONNECT_SECONDS,
        binding_refresh_interval=None,
        tailwind=False,
        gzip_middleware_factory=None,
        show_welcome_message=False,
    )
    app.router.routes.pop()
    app.router.routes.append(Dashboard("/", GZipMiddleware(Door(nicegui_app, app.state.engine), minimum_size=1000)))
