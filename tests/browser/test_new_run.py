"""A run is put together in the browser: wrong fields are marked where they are, and nothing starts that was not estimated."""

import re
from pathlib import Path

from playwright.sync_api import expect
from sqlalchemy import text

from services.api import runs
from tests.browser.conftest import Site, Visitors
from tests.browser.test_for_everybody import RULES, broken


def test_a_run_is_checked_estimated_and_started_once(site: Site, visit: Visitors) -> None:
    page = visit("/new")
    start = page.get_by_role("button", name="Start the run")
    page.get_by_label("Name").fill("made-in-a-browser")
    page.get_by_label("Epochs, at most").fill("0")
    page.get_by_label("Practice prompts").fill("12")
    expect(page.get_by_label("Epochs, at most")).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Check and estimate").click()
    expect(page.locator("#f-refining-max_epochs-error")).to_contain_text("greater than 0")
    expect(start).to_be_disabled()
    page.get_by_label("Epochs, at most").fill("4")
    page.get_by_role("button", name="Check and estimate").click()
    expect(page.locator("#f-data-sources-error")).to_contain_text("the recipe distill needs it", ignore_case=True)
    page.get_by_label("Source files").fill("s3://our-code/tsn/")
    page.get_by_label("LoRA", exact=False).nth(1).check()
    page.get_by_role("button", name="Check and estimate").click()
    facts = page.locator(".facts")
    expect(facts).to_contain_text("12 to practise")
    expect(facts).to_contain_text("22.4 GB")
    expect(facts).not_to_contain_text("Machine cost")
    expect(page.get_by_label("The whole spec as YAML")).to_have_value(re.compile("max_epochs: 4\n"))
    start.dblclick()
    expect(page).to_have_url(re.compile(r"/runs/\d+"))
    run_id = page.url.rsplit("/", maxsplit=1)[-1]
    with site.world.session() as session:
        made = runs.get(session, run_id)
        assert (made.name, made.state["spec"]["student"]["method"]) == ("made-in-a-browser", "lora")
        assert session.scalar(text("select count(*) from runs where name = 'made-in-a-browser'")) == 1


def test_yaml_and_form_are_the_same_spec(visit: Visitors) -> None:
    page = visit("/new")
    yaml = page.get_by_label("The whole spec as YAML")
    yaml.fill("name: [\n")
    page.keyboard.press("Tab")
    expect(page.locator("#spec-yaml-error")).to_contain_text("Line 2")
    yaml.fill("name: typed\nrecipe: finetune\ntrainin:\n  epochs: 2\n")
    page.keyboard.press("Tab")
    expect(page.locator("#spec-yaml-error")).to_contain_text("Did you mean `training`?")
    expect(page.get_by_label("Name")).to_have_value("typed")
    page.get_by_text("Distil a teacher").click()
    expect(page.get_by_label("Source files")).to_be_visible()
    expect(yaml).to_have_value("name: typed\nrecipe: distill\ntrainin:\n  epochs: 2\n")


def test_a_machine_of_its_own_has_its_price(visit: Visitors) -> None:
    page = visit("/new")
    page.get_by_label("The whole spec as YAML").fill(
        "name: hired\n"
        "data: {sources: [{uri: 's3://our-code/tsn/', domain: tsn}]}\n"
        "student: {model: google/gemma-3-1b-it, method: lora}\n"
        "compute: {kind: ec2, instance_type: g5.2xlarge}\n"
    )
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Check and estimate").click()
    facts = page.locator(".facts")
    expect(facts).to_contain_text("on the A10 of g5.2xlarge")
    expect(facts).to_contain_text(re.compile(r"Machine cost\s*about \$"))
    expect(facts).to_contain_text("an hour on demand")


def test_rows_are_uploaded_and_errors_named_by_line(site: Site, visit: Visitors, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    page = visit("/new")
    page.get_by_text("Fine-tune on rows").click()
    for content, told in (("prompt,completion\nHello,\n", "line 2:"), ("prompt,completion\nHello,World\n", "1 rows")):
        rows.write_text(content)
        with page.expect_file_chooser() as chosen:
            page.get_by_role("button", name="Upload JSONL or CSV").first.click()
        chosen.value.set_files(rows)
        expect(page.locator("main")).to_contain_text(told)
    expect(page.get_by_label("Training rows", exact=True)).to_have_value(re.compile(r"/datasets/\w+/rows.jsonl$"))


def test_a_place_is_looked_into(site: Site, visit: Visitors, tmp_path: Path) -> None:
    (tmp_path / "gate.c").write_text("int gate; // \u202e\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Ask <b>.", "completion": "int x;"}\n{"prompt": "Ask."}\n')
    page = visit("/new")
    page.get_by_role("button", name="Look into it: source 1").click()
    expect(page.locator("main")).to_contain_text("No place is named.")
    page.get_by_label("Source files").fill(f"file://{tmp_path}")
    look = page.get_by_role("button", name="Look into it: source 1")
    look.click()
    site.world.look()
    expect(page.locator("main")).to_contain_text("Files of C or C++: 1 (1 .c). Others: 1.")
    expect(page.get_by_role("region", name="The first lines of a file")).to_contain_text("int gate; // U+202E")
    page.get_by_label("Source files").fill(f"file://{tmp_path}/gone")
    look.click()
    site.world.look()
    expect(page.locator("main")).to_contain_text("there is no such folder. Verify the data paths")
    page.get_by_text("Fine-tune on rows").click()
    page.get_by_label("Training rows", exact=True).fill(f"file://{rows}")
    page.get_by_role("button", name="Look into it: Training rows").click()
    site.world.look()
    expect(page.locator("main")).to_contain_text("Looked at 2 rows (JSONL). Wrong: 1.")
    expect(page.locator("main")).to_contain_text("line 2: `completion` is empty")
    expect(page.get_by_role("region", name="The first rows")).to_contain_text("Ask <b>.")
    assert broken(page, RULES) == []


def test_a_run_begins_with_another_ones_settings(site: Site, visit: Visitors) -> None:
    page = visit(f"/new?like={site.looks['failed']}")
    expect(page.get_by_label("Name")).to_have_value("granite-8b-long-context")
    expect(page.get_by_label("The whole spec as YAML")).to_have_value(re.compile("max_length: 16384"))


def test_a_viewer_starts_nothing(site: Site, visit: Visitors) -> None:
    visit.expected.append("403")
    page = visit("/new", role="viewer")
    expect(page.get_by_role("heading", level=1)).to_have_text("A viewer's key can look, and not start runs.")


def test_whoever_was_signed_out_meanwhile_starts_nothing(site: Site, visit: Visitors) -> None:
    page = visit("/new", role=None)
    page.get_by_label("Key").fill(site.world.key("operator", "away"))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Name").fill("never-made")
    page.get_by_label("Source files").fill("file:///src")
    page.get_by_role("button", name="Check and estimate").click()
    expect(page.get_by_role("button", name="Start the run")).to_be_enabled()
    with site.world.session() as session:
        query = "update sign_ins set seen_at = now() - interval '13 hours' from keys k where key_digest = k.digest"
        session.execute(text(f"{query} and k.label = 'away'"))
    page.get_by_role("button", name="Start the run").click()
    expect(page).to_have_url(f"{site.url}/sign-in")
    with site.world.session() as session:
        assert session.scalar(text("select count(*) from runs where name = 'never-made'")) == 0
