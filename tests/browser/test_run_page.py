"""A run's page in every look, live, steered, and with more in it than a page can hold."""

import re
import time
from datetime import UTC, datetime

from playwright.sync_api import Page, expect
from sqlalchemy import text

from reflux.protocol import LogLine, MetricPoint, Progress
from services.api import runs
from tests.browser import large
from tests.browser.conftest import Site, Visitors
from tests.browser.world import before, spec

LOOKS = {
    "waiting": ("queued", "It starts as soon as", ("Pause", "Abort")),
    "active": ("training", "Epoch 3 of at most 5", ("Pause", "Try it in the playground", "Fork", "Abort")),
    "paused": ("paused", "Its work is saved and the GPU is free", ("Resume", "Abort")),
    "aborting": ("aborting", "No further work is begun", ()),
    "orphaned": ("training", "The worker of a task was lost", ("Pause", "Abort")),
    "review": ("refining", "It waits for you", ("Review corrections", "Pause", "Abort")),
    "failed": ("failed", "Choose a smaller student", ("New run from its settings",)),
    "aborted": ("aborted", "What was trained until then is kept", ("Try it in the playground", "Fork", "New run")),
    "succeeded": ("succeeded", "The student is better than its base", ("Try it in the playground", "Fork", "New run")),
}
ACTING = re.compile("Pause|Resume|Abort|Fork|New run from")


def panel(page: Page):  # type: ignore[no-untyped-def]
    return page.get_by_label("Control panel")


def test_every_look_says_what_goes_on_and_what_can_be_done(site: Site, visit: Visitors) -> None:
    context = visit.context()
    for look, (status, told, actions) in LOOKS.items():
        page = visit(f"/runs/{site.looks[look]}", context=context)
        expect(panel(page).locator(f"[data-status={status}]")).to_be_visible()
        expect(panel(page)).to_contain_text(told)
        shown = panel(page).locator(".actions .q-btn")
        expect(shown).to_have_count(len(actions))
        for place, name in enumerate(actions):
            expect(shown.nth(place)).to_contain_text(name)
        page.close()


def test_a_viewer_sees_everything_and_can_do_nothing(site: Site, visit: Visitors) -> None:
    context = visit.context("viewer")
    for look in ("active", "paused", "failed"):
        page = visit(f"/runs/{site.looks[look]}", context=context)
        expect(panel(page).locator("[data-status]")).to_be_visible()
        expect(panel(page).locator(".actions").get_by_text(ACTING)).to_have_count(0)
        page.close()


def test_what_has_not_come_yet_is_waited_for_in_words(site: Site, visit: Visitors) -> None:
    page = visit(f"/runs/{site.looks['waiting']}")
    plots = page.get_by_label("Plots")
    expect(plots.get_by_text("Waits for the first steps of training.")).to_have_count(2)
    expect(plots.get_by_text("Waits for the first epoch to be scored.")).to_have_count(2)
    expect(page.get_by_label("Figures")).to_contain_text("waits for training")
    expect(page.get_by_label("Epochs", exact=True)).to_contain_text("Waits for the first epoch to end.")
    expect(page.get_by_label("Logs")).to_contain_text("Waits for a worker's first line.")


def test_a_training_is_seen_as_it_goes_on(site: Site, visit: Visitors) -> None:
    run_id = site.world.create(spec("live"))
    training = site.world.play(run_id, before("train"))
    assert training is not None
    page = visit(f"/runs/{run_id}")
    figures, logs = page.get_by_label("Figures"), page.get_by_label("Logs")
    expect(figures).to_contain_text("waits for training")
    report = {
        "progress": Progress(done=20, total=400, note="steps"),
        "metrics": [MetricPoint(step=step, values={"loss": 2.0 - step / 100, "learning_rate": 1e-4}) for step in (10, 20)],
        "logs": [LogLine(line="first line"), LogLine(line="\x1b[31mred \u202e <b>bold</b>", level="error")],
    }
    site.world.beat(training, **report)
    began = time.monotonic()
    expect(figures).to_contain_text("20 / 400")
    expect(figures).to_contain_text("1.800")
    print(f"seen after {time.monotonic() - began:.2f} s")  # noqa: T201 the delay is told, not asserted
    expect(panel(page)).to_contain_text("train 20/400 steps")
    expect(page.get_by_role("img", name="Loss").locator("svg path").first).to_be_attached()
    expect(logs).to_contain_text("first line")
    expect(logs).to_contain_text("⟨ESC⟩[31mred ⟨U+202E⟩ <b>bold</b>")
    expect(logs.get_by_role("status")).to_have_text("1 error")
    site.world.complete(training, site.world.answer(training))
    expect(panel(page).locator("[data-status=refining]")).to_be_visible()


def test_pause_resume_and_an_abort_that_is_confirmed(site: Site, visit: Visitors) -> None:
    run_id = site.world.create(spec("steered"))
    training = site.world.play(run_id, before("train"))
    assert training is not None
    page = visit(f"/runs/{run_id}")
    panel(page).get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Pausing: its work is being saved.")).to_be_visible()
    site.world.stopped(training)
    expect(panel(page).locator("[data-status=paused]")).to_be_visible()
    panel(page).get_by_role("button", name="Resume").click()
    expect(panel(page).locator("[data-status=training]")).to_be_visible()
    panel(page).get_by_role("button", name="Abort").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it running").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert site.world.row(run_id).stopping is None
    panel(page).get_by_role("button", name="Abort").click()
    page.get_by_role("dialog").get_by_role("button", name="Abort").click()
    expect(panel(page).get_by_role("button", name="Abort")).to_have_count(0)
    site.world.play(run_id)
    expect(panel(page).locator("[data-status=aborted]")).to_be_visible()
    with site.world.session() as session:
        (by,) = session.execute(
            text("select body->>'by' from events where run_id = :run and type = 'abort_requested'"), {"run": run_id}
        ).one()
    assert by == "bootstrap"


def test_a_fork_goes_on_from_an_epoch_with_other_settings(site: Site, visit: Visitors) -> None:
    origin = site.looks["succeeded"]
    page = visit(f"/runs/{origin}")
    panel(page).get_by_text("Fork").click()
    expect(page).to_have_url(f"{site.url}/new?fork={origin}&epoch=3")
    changes = page.get_by_role("region", name="Changes")
    expect(changes).to_contain_text("refining.max_epochs: 3 → 4")
    expect(page.get_by_label("Source files")).to_have_count(0)
    page.get_by_label("Go on after").select_option("2")
    page.get_by_label("Epochs, at most").fill("2")
    page.get_by_label("Score to reach").fill("9")
    page.get_by_role("button", name="Check and estimate").click()
    expect(page.locator("#f-refining-max_epochs-error")).to_contain_text("2 epochs are done already")
    page.get_by_label("Epochs, at most").fill("5")
    page.keyboard.press("Tab")
    yaml = page.get_by_label("What a fork may change, as YAML")
    expect(yaml).to_have_value(re.compile("max_epochs: 5"))
    yaml.fill(yaml.input_value() + "student:\n  method: lora\n")
    page.get_by_role("button", name="Check and estimate").click()
    expect(page.locator("#spec-yaml-error")).to_contain_text("a fork can't change it")
    yaml.fill(yaml.input_value().replace("student:\n  method: lora\n", "training:\n  learning_rate: 1.0e-05\n"))
    page.keyboard.press("Tab")
    expect(changes.get_by_role("listitem")).to_have_text(
        ["training.learning_rate: 0.0002 → 1e-05", "refining.target_score: 8.0 → 9.0", "refining.max_epochs: 3 → 5"]
    )
    page.get_by_role("button", name="Check and estimate").click()
    expect(page.locator(".facts")).to_contain_text("3 to 5")
    page.get_by_role("button", name="Start the fork").dblclick()
    expect(page.get_by_text("forked from epoch 2")).to_be_visible()
    made = site.world.row(page.url.rsplit("/", maxsplit=1)[-1])
    spec = made.state["spec"]
    assert (spec["refining"]["max_epochs"], spec["training"]["learning_rate"], spec["student"]["method"]) == (5, 1e-5, "qlora")
    with site.world.session() as session:
        forks = "select count(*) from runs where state->'origin'->>'run_id' = :run"
        assert session.scalar(text(forks), {"run": origin}) == 1


def test_filters_of_the_logs_stand_in_the_address(site: Site, visit: Visitors) -> None:
    page = visit(f"/runs/{site.looks['failed']}")
    logs = page.get_by_label("Logs")
    expect(logs).to_contain_text("149 rows: 400 steps")
    logs.get_by_label("Level").click()
    page.get_by_role("option", name="Errors").click()
    expect(page).to_have_url(re.compile(r"\?level=error$"))
    expect(logs).not_to_contain_text("149 rows: 400 steps")
    expect(logs).to_contain_text("CUDA out of memory")
    page.go_back()
    expect(logs).to_contain_text("149 rows: 400 steps")
    page.go_forward()
    expect(logs).not_to_contain_text("149 rows: 400 steps")
    page.reload()
    expect(logs).to_contain_text("CUDA out of memory")
    expect(logs).not_to_contain_text("149 rows: 400 steps")


def test_artifacts_are_for_whoever_is_signed_in(site: Site, visit: Visitors) -> None:
    run_id = site.looks["succeeded"]
    page = visit(f"/runs/{run_id}", "viewer")
    page.get_by_label("Artifacts").get_by_text("Artifacts", exact=True).click()
    link = page.get_by_role("link", name="report.md")
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "report.md"
    assert download.value.path().read_text().startswith("# A run")
    got = page.request.get(f"/runs/{run_id}/artifacts/report.md")
    assert (got.status, "attachment" in got.headers["content-disposition"]) == (200, True)
    assert page.request.get(f"/runs/{run_id}/artifacts/%2e%2e/%2e%2e/x").status == 404
    stranger = visit.context(None)
    answer = stranger.request.get(f"/runs/{run_id}/artifacts/report.md", max_redirects=0)
    assert (answer.status, answer.headers["location"].startswith("/sign-in")) == (303, True)


def test_a_run_that_there_is_not(visit: Visitors) -> None:
    visit.expected.append("404")
    page = visit("/runs/20260101-000000-abcdef")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no run 20260101-000000-abcdef.")


def test_a_page_says_that_its_run_was_deleted(site: Site, visit: Visitors) -> None:
    run_id = site.world.create(spec("deleted"))
    site.world.play(run_id)
    pages = [visit(f"/runs/{run_id}{rest}") for rest in ("", "/answers")]
    with site.world.session() as session:
        runs.delete(session, run_id, None)
    for page in pages:
        expect(page.get_by_role("heading", level=1)).to_have_text("This run was deleted.")
    pages[0].get_by_role("link", name="All runs", exact=True).click()
    expect(pages[0]).to_have_url(f"{site.url}/")


def test_a_page_that_is_open_for_long_does_not_grow(site: Site, visit: Visitors) -> None:
    run_id = site.world.create(spec("long"))
    training = site.world.play(run_id, before("train"))
    assert training is not None
    with site.world.session() as session:
        for query in (large.METRICS, large.LOGS):
            session.execute(text(query), {"run": run_id})
    began = datetime.now(UTC)
    page = visit(f"/runs/{run_id}")
    logs = page.get_by_label("Logs")
    expect(logs).to_contain_text("line 20000")
    print(f"open after {(datetime.now(UTC) - began).total_seconds():.2f} s")  # noqa: T201
    expect(logs.get_by_role("status")).to_have_text("200 errors")
    for turn in range(3):
        lines = [LogLine(line=f"turn {turn} line {number}") for number in range(280)]
        site.world.beat(training, logs=lines, progress=Progress(done=turn, total=400, note="steps"))
        expect(logs).to_contain_text(f"turn {turn} line 279")
    assert page.evaluate("document.querySelectorAll('.logs [class*=log-]').length") <= 500
    points = page.evaluate("getElement(document.querySelector('.plot [role=img]').id.slice(1)).options.series[0].data.length")
    assert 100 < points <= 800
