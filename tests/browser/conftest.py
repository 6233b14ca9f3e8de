"""The API and its dashboard really running, runs in every look in its Postgres, and a Chromium that looks at them.

Every page that a test opens is watched: what it asks another host for, logs as an error or throws fails the test.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, expect, sync_playwright

from reflux.local.stack import Stack
from tests.browser import looks
from tests.browser.world import World

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATHS = f"{os.environ.get('PATH', os.defpath)}:/usr/bin"  # where there is none, Playwright takes its own: see `make browser`
HEIGHT = {1280: 800, 390: 844}
PATIENCE = 30_000  # ms: other tests run beside these


class Plane(Stack):
    """PostgreSQL, Valkey and the API. Without control, nothing moves but what a test moves."""

    def commands(self) -> dict[str, list[str]]:
        return {name: command for name, command in super().commands().items() if name != "control"}


@dataclass
class Site:
    """The dashboard at `url`; `looks` has a run's id for each look; `keys` open by role."""

    url: str
    plane: Plane
    world: World
    looks: dict[str, str]
    keys: dict[str, str]
    signed_in: dict[str, StorageState] = field(default_factory=dict)

    def cookies(self, role: str) -> StorageState:
        """Those of a browser that has signed in with a key of this role, once for all tests."""
        if role not in self.signed_in:
            with httpx.Client(base_url=self.url) as http:
                answer = http.post("/sign-in", data={"key": self.keys[role], "next": "/"})
                assert answer.status_code == 303, answer.text
                (cookie,) = http.cookies.jar
            made = {"name": cookie.name, "value": cookie.value or "", "domain": "127.0.0.1", "path": "/", "httpOnly": True}
            rest = {"expires": -1, "secure": False, "sameSite": "Lax"}
            self.signed_in[role] = {"cookies": [made | rest], "origins": []}  # type: ignore[typeddict-item, list-item]
        return self.signed_in[role]

    def cookie(self, role: str) -> dict[str, str]:
        """The same as a header."""
        return {"Cookie": "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in self.cookies(role)["cookies"])}


@pytest.fixture(scope="package")
def site(ground: Path) -> Iterator[Site]:
    with Plane(ground / "site", workers={}, durable=False, env={"REFLUX_LEASE": "PT1H"}) as plane:
        url = f"postgresql+psycopg://postgres@127.0.0.1:{plane.ports['postgres']}/reflux"
        world = World(url, plane.artifacts_url)
        keys = {"operator": plane.keys["operator"], "viewer": world.key("viewer", "grace")}
        try:
            yield Site(plane.api_url, plane, world, looks.make(world), keys)
        finally:
            world.engine.dispose()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """For the package alone: while Playwright runs, no other test in this thread could run an event loop."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium", path=PATHS), args=ARGS)
        yield browser
        browser.close()


Look = tuple[str, int, bool]  # role, width, dark


@pytest.fixture(scope="package")
def kept() -> dict[Look, BrowserContext]:
    """Profiles of the browser that have the dashboard's scripts in their cache."""
    return {}


Visit = Callable[..., Page]


@dataclass
class Visitors:
    """Opens pages: those of a stranger in a fresh profile, others in the kept one of their look unless a context is given.

    `expected` are parts of errors that a test wants.
    """

    site: Site
    chromium: Browser
    kept: dict[Look, BrowserContext] = field(default_factory=dict)
    pages: list[Page] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def context(self, role: str | None = "operator", *, width: int = 1280, dark: bool = False) -> BrowserContext:
        """A fresh one, which ends with the test."""
        self.contexts.append(self._profile(role, width, dark))
        return self.contexts[-1]

    def _profile(self, role: str | None, width: int, dark: bool) -> BrowserContext:
        context = self.chromium.new_context(
            base_url=self.site.url,
            storage_state=self.site.cookies(role) if role else None,
            viewport={"width": width, "height": HEIGHT[width]},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE)
        return context

    def __call__(
        self,
        path: str,
        role: str | None = "operator",
        *,
        width: int = 1280,
        dark: bool = False,
        context: BrowserContext | None = None,
    ) -> Page:
        page = (context or self._kept(role, width, dark)).new_page()
        self.pages.append(page)
        page.on("request", lambda request: self._asked(request.url))
        page.on("console", lambda told: self.problems.append(f"{page.url}: {told.text}") if told.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        page.goto(path)
        if page.locator("#app").count():
            page.wait_for_function("window.did_handshake === true")
        return page

    def _kept(self, role: str | None, width: int, dark: bool) -> BrowserContext:
        if role is None:
            return self.context(role, width=width, dark=dark)
        look = (role, width, dark)
        if look not in self.kept:
            self.kept[look] = self._profile(*look)
        return self.kept[look]

    def _asked(self, url: str) -> None:
        if not url.startswith((self.site.url, "data:", "blob:")):
            self.problems.append(f"asked another host: {url}")

    def unexpected(self) -> list[str]:
        return [problem for problem in self.problems if not any(part in problem for part in self.expected)]


@pytest.fixture
def visit(site: Site, chromium: Browser, kept: dict[Look, BrowserContext]) -> Iterator[Visitors]:
    visitors = Visitors(site, chromium, kept)
    yield visitors
    for opened in (*visitors.pages, *visitors.contexts):
        opened.close()
    assert visitors.unexpected() == []
