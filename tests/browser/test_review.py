"""Corrections that wait for a person: decided one by one or at once, kept over a refresh, and told of in every tab."""

import re

import pytest
from playwright.sync_api import Page, expect

from reflux.commands import Train
from reflux.records import Correction
from tests.browser.conftest import Site, Visitors
from tests.browser.world import before, spec


@pytest.fixture
def waiting(site: Site) -> str:
    """A run that waits for a review of its first epoch."""
    run_id = site.world.create(spec("to be reviewed", refining={"max_epochs": 2, "review": True}))
    site.world.play(run_id)
    return run_id


def review(page: Page):  # type: ignore[no-untyped-def]
    return page.get_by_label(re.compile("^Corrections of epoch")).first


def decide(page: Page, place: int, button: str) -> str:
    """Press a button of the card at this place; which prompt it was."""
    card = review(page).get_by_role("article").nth(place)
    card.get_by_role("button", name=button, exact=True).click()
    return card.get_attribute("aria-label") or ""


def test_corrections_are_approved_edited_and_refused_and_the_rest_at_once(site: Site, visit: Visitors, waiting: str) -> None:
    page = visit(f"/runs/{waiting}/review")
    expect(review(page).get_by_role("article")).to_have_count(6)
    expect(review(page).get_by_text("0 of 6 decided")).to_be_visible()
    expect(review(page).get_by_role("button", name="Hand in")).to_be_disabled()
    approved = decide(page, 0, "Approve")
    refused = decide(page, 1, "Refuse")
    edited = decide(page, 2, "Edit")
    page.get_by_role("dialog").get_by_label("Answer").fill("```c\nint better(void) { return 1; }\n```")
    page.get_by_role("dialog").get_by_role("button", name="Take this").click()
    expect(review(page).get_by_text("3 of 6 decided")).to_be_visible()
    page.reload()
    expect(review(page).get_by_text("3 of 6 decided")).to_be_visible()
    expect(review(page).get_by_role("article").nth(1).get_by_role("status")).to_have_text(re.compile("Refused"))
    review(page).get_by_role("button", name="Refuse the rest").click()
    page.get_by_role("dialog").get_by_role("button", name="Hand in").click()
    expect(page.get_by_text("Handed in. The run goes on.")).to_be_visible()
    expect(page.get_by_text("Epoch 1: 1 corrections wait for you")).to_be_visible()  # those that were asked for twice
    review(page).get_by_role("button", name="Approve all").click()
    page.get_by_role("dialog").get_by_role("button", name="Hand in").click()
    expect(page.get_by_text("Nothing waits for you now.")).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('reflux review')).length") == 0
    training = site.world.play(waiting, before("train", epoch=2))
    assert training is not None
    assert isinstance(training.command, Train)
    rows = [row for path in training.command.corrections_paths for row in site.world.artifacts.read_rows(path, Correction)]
    taken = {row.prompt_id: row.why for row in rows if row.admitted}
    assert "approved by bootstrap" in taken[approved]
    assert refused not in taken
    assert all("better" not in row.answer.text or row.prompt_id == edited for row in rows)
    expect(page.get_by_text("Nothing waits for you now.")).to_be_visible()


def test_two_tabs_that_decide_both(visit: Visitors, waiting: str) -> None:
    first = visit(f"/runs/{waiting}/review")
    second = visit(f"/runs/{waiting}/review")
    decide(second, 0, "Refuse")
    expect(review(second).get_by_text("1 of 6 decided")).to_be_visible()
    review(first).get_by_role("button", name="Approve all").click()
    first.get_by_role("dialog").get_by_role("button", name="Hand in").click()
    expect(first.get_by_text("Handed in. The run goes on.")).to_be_visible()
    expect(second.get_by_text("Somebody else has decided on these corrections.")).to_be_visible()
    expect(second.get_by_text("Epoch 1: 1 corrections wait for you")).to_be_visible()


def test_a_viewer_looks_and_does_not_decide(site: Site, visit: Visitors) -> None:
    page = visit(f"/runs/{site.looks['review']}/review", "viewer")
    expect(review(page).get_by_text("an operator decides")).to_be_visible()
    expect(review(page).get_by_role("button", name=re.compile("Approve|Refuse|Edit|Hand in"))).to_have_count(0)
    expect(review(page).locator(".diff").first).to_be_visible()


def test_a_run_that_asks_nobody(site: Site, visit: Visitors) -> None:
    page = visit(f"/runs/{site.looks['active']}/review")
    expect(page.get_by_text("This run asks nobody")).to_be_visible()
