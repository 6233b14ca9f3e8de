"""Every page for keyboards, readers of screens, weak eyes and narrow screens: axe's rules, in light and in dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.conftest import Site, Visitors

PAGES = {
    "sign-in": "/sign-in",
    "runs": "/",
    "new": "/new",
    "fork": "/new?fork={succeeded}",
    "system": "/system",
    "playground": "/playground?run={succeeded}",
    "run-active": "/runs/{active}",
    "run-failed": "/runs/{failed}",
    "run-succeeded": "/runs/{succeeded}",
    "answers": "/runs/{succeeded}/answers",
    "review": "/runs/{review}/review",
    "compare": "/compare?runs={succeeded},{aborted}",
}

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(site: Site, visit: Visitors, name: str) -> None:
    page = visit(PAGES[name].format(**site.looks), role=None if name == "sign-in" else "operator")
    assert broken(page, RULES) == []
    page.emulate_media(color_scheme="dark")
    assert broken(page, ["color-contrast"]) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert overflow(page) == []


def broken(page: Page, rules: list[str]) -> list[str]:
    """Each rule that is broken, with the first elements that break it."""
    kind = "tag" if rules is RULES else "rule"
    found = Axe().run(page, options={"runOnly": {"type": kind, "values": rules}, "resultTypes": ["violations"]})
    return [
        f"{broken['id']}: {broken['help']}: {' '.join(node['html'][:200] for node in broken['nodes'][:4])}"
        for broken in found.response["violations"]
    ]


def overflow(page: Page) -> list[str]:
    """What makes the page wider than its window."""
    found: list[str] = page.evaluate(
        """() => document.scrollingElement.scrollWidth <= innerWidth ? [] :
            [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
            .slice(0, 5).map(e => e.outerHTML.slice(0, 160))"""
    )
    return found
