"""Runs and checkpoints side by side."""

import re

from playwright.sync_api import expect

from tests.browser.conftest import Site, Visitors


def test_two_checkpoints_of_one_run(site: Site, visit: Visitors) -> None:
    run_id = site.looks["succeeded"]
    page = visit(f"/compare?runs={run_id}@1,{run_id}@3")
    results = page.get_by_label("Results")
    expect(results.get_by_role("columnheader")).to_have_text(
        ["At its epoch", "tsn-gate-student, epoch 1", "tsn-gate-student, epoch 3"]
    )
    expect(results.get_by_role("row", name=re.compile("^Practice"))).to_contain_text("7.14")
    expect(results.get_by_role("row", name=re.compile("^Practice"))).to_contain_text("9.39")
    expect(page.get_by_label("Settings that differ")).to_contain_text("made by the same settings")
    expect(page.get_by_label("Tests")).to_contain_text("95% interval")
    answers = page.get_by_label("Answers", exact=True)
    expect(answers.locator(".one .score")).to_have_text(["4.80", "9.07"])
    expect(answers.locator(".one").first).to_contain_text("GCC error")
    practised = answers.locator(".prompt").inner_text()
    answers.get_by_role("link", name="Dev").click()
    expect(page).to_have_url(re.compile("set=dev"))
    expect(answers.locator(".prompt")).not_to_have_text(practised)
    first = answers.locator(".prompt").inner_text()
    answers.get_by_label("Prompt, by difference").click()
    page.get_by_role("option").last.click()
    expect(page).to_have_url(re.compile("prompt="))
    expect(answers.locator(".prompt")).not_to_have_text(first)
    page.go_back()
    expect(answers.locator(".prompt")).to_have_text(first)
    page.go_back()
    expect(answers.locator(".one .score")).to_have_text(["4.80", "9.07"])


def test_two_runs_and_the_settings_that_differ(site: Site, visit: Visitors) -> None:
    page = visit(f"/compare?runs={site.looks['succeeded']},{site.looks['review']}")
    different = page.get_by_label("Settings that differ")
    expect(different.get_by_role("row", name=re.compile("^refining.review"))).to_contain_text("True")
    expect(different).not_to_contain_text("training.learning_rate")
    page.get_by_role("button", name="Leave out").last.click()
    expect(page).to_have_url(re.compile(f"runs={site.looks['succeeded']}$"))
    page.get_by_role("link", name="Its first epoch and its best").click()
    expect(page.get_by_label("Results").get_by_role("columnheader")).to_have_count(3)


def test_what_there_is_not(site: Site, visit: Visitors) -> None:
    page = visit("/compare")
    expect(page.get_by_text("Choose runs in the list of runs")).to_be_visible()
    visit.expected.append("404")
    page.goto("/compare?runs=20260101-000000-abcdef")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no run 20260101-000000-abcdef.")
    page.goto(f"/compare?runs={site.looks['succeeded']}@9")
    expect(page.get_by_text("has no finished epoch 9")).to_be_visible()
