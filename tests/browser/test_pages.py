"""The list of runs, the system, and what every page has in common."""

import re
from datetime import timedelta

import httpx
import pytest
from playwright.sync_api import expect

from reflux.events import RunAdmitted
from services.api import runs
from tests.browser.conftest import Site, Visitors
from tests.browser.world import spec

WORDS = {
    "waiting": "Waiting",
    "active": "Training",
    "paused": "Paused",
    "aborting": "Aborting",
    "failed": "Failed",
    "aborted": "Aborted",
    "succeeded": "Succeeded",
    "orphaned": "Worker lost",
    "review": "Waits for you",
}


def test_the_list_shows_every_run_and_its_look(site: Site, visit: Visitors) -> None:
    page = visit("/", role="viewer")
    for look, word in WORDS.items():
        row = page.locator("tbody tr", has=page.locator(f"a[href='/runs/{site.looks[look]}']"))
        expect(row.locator(".chips")).to_contain_text(word)
    succeeded = page.locator("tbody tr", has=page.locator(f"a[href='/runs/{site.looks['succeeded']}']"))
    expect(succeeded.get_by_role("img")).to_have_attribute(
        "aria-label", "Scores of the practice prompts by epoch: 7.14, 8.27, 9.39"
    )
    expect(succeeded).to_contain_text("best 3")
    expect(page.get_by_role("link", name="New run").and_(page.locator("main *"))).to_have_count(0)


def test_what_is_looked_for_stands_in_the_address(site: Site, visit: Visitors) -> None:
    page = visit("/")
    page.get_by_label("Status").select_option("failed")
    expect(page).to_have_url(f"{site.url}/?name=&status=failed&recipe=")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Name").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No run is like that.")).to_be_visible()
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="Show all").click()
    expect(page.locator("tbody tr").nth(1)).to_be_visible()


def test_the_list_is_paged_on_the_server(site: Site, visit: Visitors) -> None:
    for _ in range(27):
        site.world.settle(site.world.create(spec("many"), admitted=False), timedelta(days=60))
    page = visit("/?name=many")
    expect(page.locator("tbody tr")).to_have_count(25)
    page.get_by_role("link", name="Older runs").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_role("link", name="Newest").click()
    expect(page.locator("tbody tr")).to_have_count(25)


def test_two_runs_that_were_chosen_are_compared(site: Site, visit: Visitors) -> None:
    page = visit("/")
    compare = page.get_by_role("button", name="Compare")
    expect(compare).to_be_disabled()
    for name in ("tsn-gate-student", "avb-stream-student"):
        page.get_by_label(f"Choose {name}").check()
    expect(compare).to_be_enabled()
    compare.click()
    expect(page).to_have_url(f"{site.url}/compare?runs={site.looks['aborted']},{site.looks['succeeded']}")


def test_the_list_follows_what_happens_and_keeps_what_is_typed(site: Site, visit: Visitors) -> None:
    run_id = site.world.settle(site.world.create(spec("followed"), admitted=False))
    page = visit("/")
    row = page.locator("tbody tr", has=page.locator(f"a[href='/runs/{run_id}']"))
    expect(row.locator(".chips")).to_contain_text("Waiting")
    page.get_by_label("Name").fill("half a na")
    page.get_by_label("Choose followed").check()
    site.world.tell(run_id, RunAdmitted())
    expect(row.locator(".chips")).to_contain_text("Checking")
    expect(page.get_by_label("Name")).to_have_value("half a na")
    expect(page.get_by_label("Choose followed")).to_be_checked()
    with site.world.session() as session:
        another, _ = runs.create(session, spec("followed-too"), "ada")
    expect(page.locator(f"a[href='/runs/{another.id}']")).to_be_visible()


def test_the_system_tells_workers_queues_and_servers(site: Site, visit: Visitors) -> None:
    page = visit("/system", role="viewer")
    trainer = page.locator("tbody tr", has_text="trainer-1")
    expect(trainer).to_contain_text("trains the student: qbv-schedule-student")
    expect(trainer).to_contain_text("17.3 of 24.0 GB")
    expect(page.locator(".card", has_text="Servers")).to_contain_text("Answers")
    expect(page.locator(".card", has_text="Waiting for a worker")).to_contain_text("You, to review")


def test_an_address_that_nobody_has_is_told_in_words(site: Site, visit: Visitors) -> None:
    visit.expected += ["404"]
    page = visit("/nowhere")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no page at this address.")
    assert httpx.get(f"{site.url}/nowhere", headers=site.cookie("viewer")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("PUT", "/v1/runs", 405), ("POST", "/healthz", 405)]
)
def test_rest_stays_rest(site: Site, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, f"{site.url}{path}", headers=site.cookie("operator"))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_the_cookie_opens_pages_and_no_rest(site: Site) -> None:
    assert httpx.get(f"{site.url}/v1/runs", headers=site.cookie("operator")).status_code == 401


def test_colours_are_chosen_and_kept(visit: Visitors) -> None:
    page = visit("/", dark=True)
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    switch = page.get_by_role("button", name="Colours")
    switch.click()
    expect(page.locator("body")).to_have_class(re.compile("body--light"))
    page.reload()
    expect(switch).to_have_accessible_name("Colours: light. Change")
    expect(page.locator("body")).to_have_class(re.compile("body--light"))


def test_the_keyboard_skips_to_the_content(visit: Visitors) -> None:
    page = visit("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Name")).to_be_focused()
