"""`make screenshots`: every page in every look, light and dark, 1280 and 390 wide, into docs/screenshots."""

import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from reflux.completions import Tokens
from reflux.errands import CompleteErrand, JudgeErrand, Written
from reflux.previews import PreviewRequest
from services.evaluator.score import Attempt, the_scorer
from services.teacher_worker import previews
from tests.browser import looks, pupil
from tests.browser.conftest import ARGS, PATHS, Plane, Site, Visitors
from tests.browser.world import World

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
COLOURS = 64  # flat pages need no more, and are small
TALLEST = 2000  # what is below says nothing new
Prepare = Callable[[Page], None]


def main(names: list[str]) -> None:
    """All pictures anew; with names, those alone."""
    if not names:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ground = Path(tempfile.mkdtemp(prefix="reflux-screenshots-"))
    try:
        with Plane(ground, workers={}, durable=False, env={"REFLUX_LEASE": "PT1H"}) as plane, sync_playwright() as playwright:
            url = f"postgresql+psycopg://postgres@127.0.0.1:{plane.ports['postgres']}/reflux"
            world = World(url, plane.artifacts_url)
            site = Site(plane.api_url, plane, world, looks.make(world), {"operator": world.key("operator", "ada")})
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium", path=PATHS), args=ARGS)
            take_all(Visitors(site, browser), names)
            browser.close()
            world.engine.dispose()
    finally:
        shutil.rmtree(ground, ignore_errors=True)
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    sys.stdout.write(f"{len(list(FOLDER.iterdir()))} pictures, {size / 1e6:.1f} MB, in {FOLDER}\n")


def pages(site: Site) -> dict[str, tuple[str, Prepare]]:
    """By the picture's name the address, and what is done there first."""
    run = site.looks
    shown: dict[str, tuple[str, Prepare]] = {
        "sign-in": ("/sign-in", as_it_is),
        "runs": ("/", as_it_is),
        "new": ("/new", as_it_is),
        "new-estimated": ("/new", estimated),
        "new-looked": ("/new", Looked(site).shown),
        "fork": (f"/new?fork={run['succeeded']}&epoch=2", forked),
        "system": ("/system", as_it_is),
        "playground": (f"/playground?a={run['succeeded']}@best&b={run['succeeded']}@base", Asked(site).answered),
        "answers": (f"/runs/{run['succeeded']}/answers?epoch=1", as_it_is),
        "review": (f"/runs/{run['review']}/review", as_it_is),
        "compare": (f"/compare?runs={run['succeeded']},{run['aborted']}", as_it_is),
        "not-found": ("/runs/20260101-000000-abcdef", as_it_is),
    }
    return shown | {f"run-{look}": (f"/runs/{run_id}", as_it_is) for look, run_id in run.items()}


def as_it_is(_: Page) -> None:
    pass


def estimated(page: Page) -> None:
    page.get_by_label("Name").fill("our-tsn-student")
    page.get_by_label("Source files").fill("s3://our-code/tsn_data/")
    page.get_by_label("Domain").fill("tsn")
    page.get_by_label("Epochs, at most").fill("0")
    page.get_by_label("Score to reach").click()
    page.get_by_role("button", name="Check and estimate").click()
    page.locator("#f-refining-max_epochs-error").filter(has_text="greater").wait_for()
    page.get_by_label("Epochs, at most").fill("6")
    page.get_by_label("Score to reach").click()
    page.get_by_role("button", name="Check and estimate").click()
    page.locator(".facts").wait_for()
    page.evaluate("window.scrollTo(0, 0)")


def forked(page: Page) -> None:
    page.get_by_label("Epochs, at most").fill("5")
    page.get_by_label("Score to reach").fill("9.4")
    page.get_by_role("button", name="Check and estimate").click()
    page.get_by_text("target_score: 8.0 → 9.4").wait_for()
    page.get_by_role("button", name="Check and estimate").click()
    page.locator(".facts").wait_for()
    page.evaluate("window.scrollTo(0, 0)")


@dataclass(frozen=True)
class Looked:
    """A bucket that a teacher worker has looked into; the example's corpus stands for it."""

    site: Site

    def shown(self, page: Page) -> None:
        page.get_by_label("Source files").fill("s3://our-code/tsn_data/")
        page.get_by_label("Domain").fill("tsn")
        page.get_by_role("button", name="Look into it: source 1").click()
        given = self.site.world.errand("teacher_worker")
        corpus = FOLDER.parents[1] / "examples" / "automotive" / "corpus"
        self.site.world.end(given, previews.look(PreviewRequest(uri=corpus.as_uri(), holds="sources")))
        page.get_by_role("region", name="The first lines of a file").wait_for()
        page.evaluate("window.scrollTo(0, 0)")


@dataclass(frozen=True)
class Asked:
    """A question to the best student and the base, with the trainer's and the evaluator's parts played here."""

    site: Site

    def answered(self, page: Page) -> None:
        asked = pupil.prompts()[2]
        page.get_by_label("Prompt").fill(asked.prompt)
        page.get_by_role("button", name="Ask").click()
        world = self.site.world
        for _ in range(2):
            given = world.errand("gpu_trainer")
            assert isinstance(given.order, CompleteErrand)
            quality = pupil.GOOD if given.order.adapter_path else pupil.CARELESS
            world.say(given, 0, pupil.written(asked, quality))
            world.end(given, Written(finish_reason="stop", usage=Tokens(prompt=61, answer=132)))
            judging = world.errand("evaluator")
            assert isinstance(judging.order, JudgeErrand)
            world.end(judging, the_scorer().score(Attempt(judging.order.text, judging.order.prompt, "tsn")))
        page.get_by_text("132 tokens in").nth(1).wait_for()


def take_all(visit: Visitors, names: list[str]) -> None:
    for name, (address, prepare) in pages(visit.site).items():
        if names and name not in names:
            continue
        for dark in (False, True):
            for width in (1280, 390):
                page = visit(address, role=None if name == "sign-in" else "operator", width=width, dark=dark)
                prepare(page)
                page.wait_for_timeout(600)  # charts are drawn, and fonts are there
                tall = min(TALLEST, page.evaluate("document.scrollingElement.scrollHeight"))
                page.set_viewport_size({"width": width, "height": max(600, tall)})
                page.wait_for_timeout(300)
                save(page.screenshot(), FOLDER / f"{name}-{'dark' if dark else 'light'}-{width}.png")
                page.close()
        sys.stdout.write(f"{name}\n")


def save(picture: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(picture)) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
