"""Students are asked, and answer as they write; a test plays the trainer and the evaluator."""

from playwright.sync_api import expect

from reflux.completions import Tokens
from reflux.errands import JudgeErrand, Written
from services.evaluator.score import Attempt, the_scorer
from tests.browser import pupil
from tests.browser.conftest import Site, Visitors
from tests.integration.by_hand import eventually

DONE = Written(finish_reason="stop", usage=Tokens(prompt=40, answer=120))


def test_an_answer_is_seen_as_it_is_written_and_then_scored(site: Site, visit: Visitors) -> None:
    asked = pupil.prompts()[0]
    page = visit(f"/playground?a={site.looks['succeeded']}@best")
    page.get_by_label("Prompt").fill(asked.prompt)
    page.get_by_role("button", name="Ask").click()
    answer = page.get_by_role("article")
    expect(answer.get_by_role("status")).to_contain_text("training epoch")  # the trainer has a run's training in hand
    given = site.world.errand("gpu_trainer")
    words = pupil.written(asked, pupil.CARELESS)
    assert site.world.say(given, 0, words[:60])
    expect(answer.locator("pre")).to_contain_text(words[8:50].split("\n")[0])
    expect(answer.get_by_role("status")).to_have_text("Writes …")
    site.world.say(given, 60, words[60:])
    site.world.end(given, DONE)
    judging = site.world.errand("evaluator")
    assert isinstance(judging.order, JudgeErrand)
    site.world.end(judging, the_scorer().score(Attempt(judging.order.text, judging.order.prompt)))
    expect(answer.get_by_role("status")).to_contain_text("120 tokens in")
    expect(answer).to_contain_text("does not compile")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()


def test_two_students_are_asked_the_same_and_stopped(site: Site, visit: Visitors) -> None:
    run_id = site.looks["succeeded"]
    page = visit(f"/playground?run={run_id}")
    page.get_by_label("Beside it").select_option(f"{run_id}@base")
    expect(page).to_have_url(f"{site.url}/playground?a={run_id}%40best&b={run_id}%40base")
    page.get_by_label("Prompt").fill("Write it.")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("article")).to_have_count(2)
    given = site.world.errand("gpu_trainer")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("article").first.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("article").last.get_by_role("status")).to_have_text("Stopped.")
    assert not site.world.say(given, 0, "too late")


def test_a_page_that_is_left_stops_asking(site: Site, visit: Visitors) -> None:
    page = visit(f"/playground?run={site.looks['succeeded']}")
    page.get_by_label("Prompt").fill("Write it.")
    page.get_by_role("button", name="Ask").click()
    given = site.world.errand("gpu_trainer")
    page.close()
    eventually(lambda: not site.world.say(given, 0, "…"), 30.0, "the question goes on though its page is gone")


def test_what_can_not_be_asked_is_told_in_words(site: Site, visit: Visitors) -> None:
    page = visit(f"/playground?run={site.looks['succeeded']}")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_contain_text("Prompt:")
    page.get_by_text("How it is asked").click()
    page.get_by_label("Prompt").fill("Write it.")
    page.get_by_label("Temperature").fill("hot")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("alert")).to_contain_text("Temperature:")
    viewers = visit(f"/playground?run={site.looks['succeeded']}", role="viewer")
    expect(viewers.get_by_role("button", name="Ask")).to_be_disabled()
