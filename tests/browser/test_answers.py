"""Answers: why one got its score; moving among them by link, key and address; text that wants to do harm; many of them."""

import re
import time

from playwright.sync_api import Page, expect

from reflux.commands import Generate, Score
from reflux.records import Answer
from services.api.dashboard import answer
from services.evaluator.rubric import Rubric
from tests.browser import large
from tests.browser.conftest import Site, Visitors
from tests.browser.world import before, spec
from tests.unit import stories

HOSTILE = """```c
#include "<img src=x onerror=alert(1)>"
/* \u202e } \u2066if (admin)\u2069 \u2066 begin admins only */ \x1b]0;owned\x07\x1b[2J <script>window.owned = 1</script>
int f(void) { return "</code></div><script>window.owned = 2</script>"; \u200b}
```
<script>window.owned = 3</script> {{ constructor.constructor('window.owned = 4')() }}
"""


def chosen(page: Page):  # type: ignore[no-untyped-def]
    return page.get_by_role("article", name="Answer")


def title(page: Page):  # type: ignore[no-untyped-def]
    return chosen(page).locator("h2").first


def entries(page: Page):  # type: ignore[no-untyped-def]
    return page.locator(".list .entry")


def test_the_worst_answer_comes_first_with_all_that_explains_it(site: Site, visit: Visitors) -> None:
    page = visit(f"/runs/{site.looks['succeeded']}/answers?epoch=1")
    expect(entries(page)).to_have_count(12)
    shown = [float(text) for text in page.locator(".list .score").all_inner_texts()]
    assert shown == sorted(shown)
    one = chosen(page)
    expect(one.locator(".score.large")).to_have_text("4.80")
    missing = one.locator(".line.wrong", has_text="return preempt")
    expect(missing.locator("+ .said")).to_contain_text("GCC error expected ';' before '}' token")
    expect(one.locator(".code .kt").first).to_be_visible()
    evidence = one.get_by_label("Evidence", exact=True)
    expect(evidence).to_contain_text("malloc: memory from the heap")
    expect(evidence.locator(".sum")).to_contain_text("= 4.80")
    for part, total in (("Syntax", 0.0), ("Words", 8.5), ("Safety", 6.0), ("Style", 5.0)):
        section = evidence.locator("section", has=page.get_by_text(part, exact=True))
        expect(section.locator(".score")).to_have_text(f"{total}")
        points = [
            text.replace("\u2212", "-").replace("\u00b7", "0") for text in section.locator("li > .number").all_inner_texts()
        ]
        assert sum(map(float, points)) == total
    correction = one.get_by_label("Correction", exact=True)
    expect(correction).to_contain_text("Taken")
    expect(correction).to_contain_text("4.80 \u2192 9.53")
    expect(correction.locator(".diff .changed .new").first).to_contain_text("@brief Check whether a frame may be preempted.")
    expect(one.get_by_label("The same prompt across epochs").get_by_role("link")).to_have_count(3)


def test_weights_are_the_evaluators() -> None:
    assert {f"weight_{part}": weight for part, weight in answer.WEIGHTS.items()} == {
        name: value for name, value in Rubric().model_dump().items() if name.startswith("weight_")
    }


def test_a_correction_that_waits_leads_to_its_review(site: Site, visit: Visitors) -> None:
    page = visit(f"/runs/{site.looks['review']}/answers?epoch=1&only=poor")
    expect(page.locator(".list small", has_text="correction waits for you").first).to_be_visible()
    waiting = chosen(page).get_by_label("Correction", exact=True)
    expect(waiting).to_contain_text("A person must let it pass")
    waiting.get_by_role("link", name="Review").click()
    expect(page).to_have_url(re.compile("/review$"))


def test_moving_by_click_key_and_history_keeps_the_address(site: Site, visit: Visitors) -> None:
    run_id = site.looks["succeeded"]
    page = visit(f"/runs/{run_id}/answers?epoch=1")
    first = title(page).inner_text()
    page.keyboard.press("j")
    expect(chosen(page).get_by_text("2 of 12")).to_be_visible()
    second = title(page).inner_text()
    expect(page).to_have_url(re.compile(f"epoch=1&prompt={second}$"))
    page.keyboard.press("ArrowRight")
    expect(chosen(page).get_by_text("3 of 12")).to_be_visible()
    page.keyboard.press("k")
    expect(chosen(page).get_by_text("2 of 12")).to_be_visible()
    entries(page).nth(7).click()
    expect(chosen(page).get_by_text("8 of 12")).to_be_visible()
    eighth = page.url
    chosen(page).get_by_role("link", name="Epoch 2").click()
    expect(page).to_have_url(re.compile("epoch=2"))
    page.go_back()
    expect(page).to_have_url(eighth)
    expect(chosen(page).get_by_text("8 of 12")).to_be_visible()
    page.go_back()
    expect(chosen(page).get_by_text("2 of 12")).to_be_visible()
    page.go_forward()
    expect(chosen(page).get_by_text("8 of 12")).to_be_visible()
    page.reload()
    expect(chosen(page).get_by_text("8 of 12")).to_be_visible()
    page.goto(f"/runs/{run_id}/answers?epoch=1")
    expect(title(page)).to_have_text(first)


def test_filters_stand_in_the_address_and_nonsense_shows_something(site: Site, visit: Visitors) -> None:
    run_id = site.looks["succeeded"]
    page = visit(f"/runs/{run_id}/answers?epoch=1")
    page.get_by_role("link", name="Dev 4").click()
    expect(entries(page)).to_have_count(4)
    expect(page).to_have_url(re.compile("set=dev"))
    page.get_by_label("Show").click()
    page.get_by_role("option", name="Not compiling").click()
    expect(page).to_have_url(re.compile("only=broken"))
    expect(entries(page)).to_have_count(3)
    expect(page.locator(".list small", has_text="errors")).to_have_count(3)
    page.go_back()
    expect(entries(page)).to_have_count(4)
    page.get_by_role("link", name="Test: student").click()
    expect(entries(page)).to_have_count(12)
    expect(page.get_by_role("link", name="Test: student 12")).to_be_visible()
    page.goto(f"/runs/{run_id}/answers?epoch=x&set=%00&order=../&page=-4&sample=99999999&prompt=%3Cb%3E&diff=no")
    expect(page.get_by_text("This answer is not among those shown.")).to_be_visible()
    expect(entries(page)).to_have_count(12)
    page.goto(f"/runs/{run_id}/answers?epoch=77")
    expect(page.get_by_text("There are none: the run ended before.")).to_be_visible()


def test_answers_come_as_they_are_scored_and_their_text_does_no_harm(site: Site, visit: Visitors) -> None:
    world = site.world
    run_id = world.create(spec("<script>window.owned = 9</script>"))
    scoring = world.play(run_id, before("score"))
    assert scoring is not None
    assert isinstance(scoring.command, Score)
    path = scoring.command.chunk.path
    worst, *others = world.artifacts.read_rows(path, Answer)
    evil = worst.model_copy(update={"text": HOSTILE, "prompt": f"<script>window.owned = 5</script>\u202e {worst.prompt}"})
    world.artifacts.write_rows(path, [evil, *others])
    page = visit(f"/runs/{run_id}/answers")
    expect(page.get_by_text("Waits for the answers of epoch 1")).to_be_visible()
    world.complete(scoring, world.answer(scoring))
    expect(entries(page)).to_have_count(12)
    entries(page).filter(has_text="<script>").click()
    one = chosen(page)
    expect(one.get_by_text("It has characters that are not seen")).to_contain_text("RIGHT-TO-LEFT OVERRIDE")
    expect(one.locator(".code .hidden-char", has_text="U+202E")).to_have_count(1)
    expect(one.locator(".code .hidden-char", has_text="ESC")).to_have_count(2)
    expect(one.locator(".code .hidden-char", has_text="U+200B")).to_have_count(1)
    expect(one.locator(".code")).to_contain_text("<script>window.owned = 1</script>")
    one.get_by_text("The whole answer").click()
    expect(one.locator("details pre")).to_contain_text("constructor.constructor")
    bidi = "[...document.body.innerText].filter(c => /[\\u202a-\\u202e\\u2066-\\u2069\\u200b\\x1b\\x07]/.test(c)).length"
    assert page.evaluate(bidi) <= page.locator(".code code").count()  # the empty lines' own U+200B
    assert page.evaluate("window.owned") is None
    assert page.locator(".detail img, .detail script").count() == 0
    world.play(run_id, before("train", epoch=2))
    expect(one.get_by_label("Correction", exact=True)).to_contain_text("It is trained on in epoch 2")
    page.goto(f"/runs/{run_id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("<script>window.owned = 9</script>")
    page.goto(f"/compare?runs={run_id}")
    expect(page.get_by_role("link", name="<script>")).to_be_visible()
    assert page.evaluate("window.owned") is None


def test_more_answers_are_offered_and_move_nothing_below_a_hand(site: Site, visit: Visitors) -> None:
    world = site.world
    run_id = world.create(spec("in two chunks"))
    generating = world.play(run_id, before("generate"))
    assert generating is not None
    assert isinstance(generating.command, Generate)
    (whole, dev) = world.generated(generating, generating.command)
    rows = list(world.artifacts.read_rows(whole.path, Answer))
    halves = []
    for index, part in enumerate((rows[:6], rows[6:])):
        path = whole.path.replace("practice", f"half-{index}")
        world.artifacts.write_rows(path, part)
        halves.append(whole.model_copy(update={"index": index, "path": path, "count": len(part)}))
    world.complete(generating, stories.answer(generating.command, chunks=(*halves, dev), tokens=100))
    first = world.claim(run_id)
    assert first is not None
    world.complete(first, world.answer(first))
    page = visit(f"/runs/{run_id}/answers")
    expect(entries(page)).to_have_count(6)
    second = world.play(run_id, before("score"))
    assert second is not None
    world.complete(second, world.answer(second))
    page.get_by_role("button", name="6 more are scored: show them").click()
    expect(entries(page)).to_have_count(12)


def test_a_narrow_screen_shows_the_list_or_the_answer(site: Site, visit: Visitors) -> None:
    page = visit(f"/runs/{site.looks['succeeded']}/answers?epoch=1", width=390)
    expect(chosen(page)).to_be_hidden()
    entries(page).first.click()
    expect(chosen(page)).to_be_visible()
    expect(entries(page).first).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.go_back()
    expect(entries(page).first).to_be_visible()


def test_a_run_with_ten_thousand_answers_opens_and_scrolls(site: Site, visit: Visitors) -> None:
    run_id = large.make(site.world)
    context = visit.context()
    took = {}
    for name, path, there in (
        ("run", f"/runs/{run_id}", "line 20000"),
        ("answers", f"/runs/{run_id}/answers", "1 of 200"),
        ("compare", f"/compare?runs={run_id}@3,{run_id}@49", "The same prompts, side by side"),
    ):
        began = time.monotonic()
        page = visit(path, context=context)
        expect(page.get_by_text(there)).to_be_attached()
        took[name] = round(time.monotonic() - began, 2)
        if name == "answers":
            expect(entries(page)).to_have_count(25)
            expect(page.get_by_role("link", name="Epoch 7", exact=False).first).to_be_attached()
            page.get_by_role("link", name="Next", exact=True).click()
            expect(page.get_by_text("26 to 50 of 200")).to_be_visible()
            page.go_back()
            expect(page.get_by_text("1 to 25 of 200")).to_be_visible()
        page.close()
    print(f"seconds until it can be read: {took}")  # noqa: T201 told, not asserted
