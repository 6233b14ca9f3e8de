"""What becomes of a page, and of the run that it shows, when something happens to the browser, the network or the servers.

The numbers are those of the life-cycle scenarios that the dashboard was made by. State is in Postgres alone: every page shows the
run as it is, and no page touches it by being opened, left or lost.
"""

import re
import signal
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect

from reflux.local.stack import Stack
from reflux.protocol import Assignment, LogLine, Progress
from reflux.views import RunView
from tests.browser.conftest import Site, Visitors
from tests.browser.world import before, spec
from tests.integration.by_hand import eventually

BACK = 30_000  # a page that has lost its server comes back within so many ms of the server's return


class Training:
    """A run in its first training, and what its worker tells."""

    def __init__(self, site: Site, name: str) -> None:
        self.world = site.world
        self.run_id = self.world.create(spec(name))
        given = self.world.play(self.run_id, before("train"))
        assert given is not None
        self.given: Assignment = given
        self.path = f"/runs/{self.run_id}"

    def step(self, number: int) -> None:
        report = {"progress": Progress(done=number, total=400, note="steps"), "logs": [LogLine(line=f"step {number}")]}
        self.world.beat(self.given, **report)

    @property
    def seq(self) -> int:
        return self.world.row(self.run_id).seq


@pytest.fixture
def training(site: Site, request: pytest.FixtureRequest) -> Training:
    return Training(site, request.node.name[5:80])


def shows(page: Page, step: int, timeout: float = 5000) -> None:
    expect(page.get_by_label("Figures")).to_contain_text(f"{step} / 400", timeout=timeout)
    expect(page.get_by_label("Logs")).to_contain_text(f"step {step}", timeout=timeout)


def status(page: Page, name: str, timeout: float = 5000) -> None:
    expect(page.locator(f"[data-status={name}]")).to_be_visible(timeout=timeout)


def test_7_a_refresh_shows_the_run_as_it_is_and_does_not_touch_it(training: Training, visit: Visitors) -> None:
    training.step(10)
    page, seq = visit(training.path), training.seq
    shows(page, 10)
    for _ in range(3):
        page.reload()
    shows(page, 10)
    training.step(11)
    shows(page, 11)
    assert training.seq == seq


def test_8_a_tab_that_was_closed_is_opened_again(training: Training, visit: Visitors) -> None:
    context = visit.context()
    page = visit(training.path, context=context)
    page.close()
    training.step(20)
    training.world.complete(training.given, training.world.answer(training.given))
    again = visit(training.path, context=context)
    status(again, "refining")
    expect(again.get_by_label("Logs")).to_contain_text("step 20")


def test_9_tabs_that_click_against_each_other(training: Training, visit: Visitors) -> None:
    one, two = visit(training.path), visit(training.path)
    two.get_by_role("button", name="Pause").wait_for()
    one.get_by_role("button", name="Abort").click()
    one.get_by_role("dialog").get_by_role("button", name="Abort").click()
    status(one, "aborting")
    status(two, "aborting")  # the other tab follows, and offers no button that could not be obeyed
    expect(two.get_by_role("button", name="Pause")).to_have_count(0)
    training.world.stopped(training.given)
    training.world.play(training.run_id)
    for page in (one, two):
        status(page, "aborted")


def test_9_a_click_that_comes_too_late_is_told_so(training: Training, visit: Visitors) -> None:
    one, two = visit(training.path), visit(training.path)
    two.get_by_role("button", name="Abort").click()  # its dialog is open while the other tab aborts
    one.get_by_role("button", name="Abort").click()
    one.get_by_role("dialog").get_by_role("button", name="Abort").click()
    status(one, "aborting")
    two.get_by_role("dialog").get_by_role("button", name="Abort").click()
    expect(two.get_by_text("It is being aborted already.")).to_be_visible()
    status(two, "aborting")


def test_10_the_network_is_lost_and_comes_back(training: Training, visit: Visitors) -> None:
    visit.expected += ["ERR_INTERNET_DISCONNECTED", "WebSocket", "Failed to load"]
    context = visit.context()
    page = visit(training.path, context=context)
    training.step(30)
    shows(page, 30)
    context.set_offline(True)
    page.evaluate("window.socket.io.engine.close()")  # a network that goes tells no socket
    expect(page.get_by_text("Connection lost.")).to_be_visible(timeout=BACK)
    training.step(31)
    context.set_offline(False)
    shows(page, 31, BACK)
    assert training.world.row(training.run_id).status == "training"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["11 stopped", "12 killed"])
def test_the_api_goes_and_comes_back(training: Training, site: Site, visit: Visitors, number: signal.Signals) -> None:
    visit.expected += ["ERR_CONNECTION_REFUSED", "WebSocket", "Failed to load", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET"]
    page = visit(training.path)
    training.step(40)
    shows(page, 40)
    before_it, seq = site.plane.pid("api"), training.seq
    site.plane.kill("api", number)
    training.step(41)  # what a worker has told stands in Postgres, whoever looks
    shows(page, 41, 2 * BACK)
    assert site.plane.pid("api") != before_it
    assert training.seq == seq
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Pausing: its work is being saved.")).to_be_visible()


def test_13_and_14_all_servers_are_started_again_over_the_same_folder(training: Training, site: Site, visit: Visitors) -> None:
    visit.expected += [
        "ERR_CONNECTION_REFUSED",
        "WebSocket",
        "Failed to load",
        "ERR_EMPTY_RESPONSE",
        "ERR_CONNECTION_RESET",
        "503",
    ]
    page = visit(training.path)
    training.step(50)
    shows(page, 50)
    for name in ("api", "postgres"):
        site.plane.stop(name)
    training.world.engine.dispose()
    for name in ("postgres", "api"):
        site.plane.start(name)
    site.plane._wait_for_api()
    training.step(51)
    shows(page, 51, 2 * BACK)
    status(page, "training")


def test_14_the_database_alone_is_away_for_a_while(training: Training, site: Site, visit: Visitors) -> None:
    visit.expected += ["503"]
    context = visit.context()
    page = visit(training.path, context=context)
    training.step(60)
    shows(page, 60)
    site.plane.stop("postgres")
    other = visit(training.path, context=context)
    expect(other.get_by_text(re.compile("can't be reached|could not be"))).to_be_visible(timeout=BACK)
    site.plane.start("postgres")
    training.world.engine.dispose()
    eventually(training.world.is_up, 20, "PostgreSQL did not come back")
    training.step(61)
    shows(page, 61, BACK)


def test_12_and_15_a_worker_dies_and_its_task_goes_to_another(training: Training, visit: Visitors) -> None:
    page = visit(training.path)
    training.step(70)
    shows(page, 70)
    training.world.orphan(training.given)
    expect(page.get_by_text("Worker lost")).to_be_visible()
    expect(page.get_by_text("Its work is saved; the task goes on as soon as a worker is free.")).to_be_visible()
    again = training.world.claim(training.run_id)
    assert again is not None
    assert again.attempt == 2
    training.given = again
    training.step(71)
    shows(page, 71)
    expect(page.get_by_text("Worker lost")).to_have_count(0)


def test_15_memory_runs_out_and_the_page_says_what_to_do(training: Training, visit: Visitors) -> None:
    page = visit(training.path)
    training.step(80)
    training.world.fail(training.given, "gpu_out_of_memory", "CUDA out of memory: 0.1 GB of 24.0 GB are free")
    training.world.play(training.run_id)
    status(page, "failed")
    expect(page.get_by_role("alert")).to_contain_text("CUDA out of memory")
    expect(page.get_by_role("alert")).to_contain_text("Choose a smaller student")
    expect(page.get_by_role("link", name="New run from its settings")).to_be_visible()


def test_18_back_and_forward(training: Training, visit: Visitors) -> None:
    training.step(90)
    page, seq = visit("/"), training.seq
    page.goto(training.path)
    shows(page, 90)
    page.go_back()
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    training.step(91)
    page.go_forward()
    shows(page, 91)
    training.step(92)
    shows(page, 92)
    assert training.seq == seq


def test_19_a_bookmark_of_any_view_shows_that_view(training: Training, site: Site, visit: Visitors) -> None:
    training.step(95)
    context = visit.context()
    page = visit(f"{training.path}?level=error", context=context)
    expect(page.get_by_label("Logs")).not_to_contain_text("step 95")
    expect(page.get_by_label("Level")).to_have_value("Errors")
    for path, there in (
        (f"/runs/{site.looks['succeeded']}/answers?epoch=2&set=dev&order=prompt", "1 of 4"),
        (f"/compare?runs={site.looks['succeeded']}@1,{site.looks['succeeded']}@2&set=dev", "The same prompts, side by side"),
        (f"/runs/{site.looks['review']}/review", "6 corrections wait for you"),
    ):
        page = visit(path, context=context)
        expect(page.get_by_text(there).first).to_be_visible()
        expect(page).to_have_url(re.compile(re.escape(path)))


def test_21_a_private_window_knows_nobody_and_then_shows_the_same(training: Training, site: Site, visit: Visitors) -> None:
    training.step(97)
    page = visit(training.path)
    shows(page, 97)
    private = visit(training.path, None)
    expect(private.get_by_label("Key")).to_be_visible()
    private.get_by_label("Key").fill(site.keys["viewer"])
    private.get_by_role("button", name="Sign in").click()
    shows(private, 97)
    expect(private.get_by_role("button", name="Pause")).to_have_count(0)
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    training.step(98)
    shows(private, 98)
    shows(page, 98)


def test_a_real_run_is_shown_on_every_page(calm_run: RunView, stack: Stack, site: Site, chromium: Browser) -> None:
    """What real workers and a tiny real student have left, not what the world made."""
    visit = Visitors(replace(site, url=stack.api_url, keys={"operator": stack.keys["operator"]}, signed_in={}), chromium)
    context = visit.context()
    page = visit(f"/runs/{calm_run.id}", context=context)
    status(page, "succeeded")
    expect(page.get_by_role("img", name="Loss").locator("svg path").first).to_be_attached()
    expect(page.get_by_label("Logs")).to_contain_text("train-001")
    page = visit(f"/runs/{calm_run.id}/answers?epoch=1", context=context)
    expect(page.get_by_label("Evidence", exact=True)).to_contain_text("Syntax")
    expect(page.get_by_text("1 of 6")).to_be_visible()
    page = visit(f"/compare?runs={calm_run.id}@1,{calm_run.id}@2", context=context)
    expect(page.locator(".one .score")).to_have_count(2)
    context.close()
    assert visit.unexpected() == []
