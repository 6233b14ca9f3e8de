"""Corrections that wait for a person: each as a difference, to be approved, edited or refused; the rest at once.

What was decided and not handed in is kept in the browser, so that a refresh or a closed tab costs nothing; it is no state of the
run, which moves when the whole review is handed in.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from nicegui import ui
from sqlalchemy.orm import Session

from reflux.records import Correction
from reflux.run import Run
from reflux.views import Decision, ReviewView
from services.api import reviews, runs
from services.api.dashboard import answer, code, live, sheets, shell, words
from services.api.dashboard.downloads import store

Word = Literal["approve", "edit", "refuse"]
LOOKS: dict[str, words.Look] = {
    "": words.Look("Not decided", "off", "help_outline"),
    "approve": words.Look("Approved", "good", "check"),
    "edit": words.Look("Edited", "busy", "edit"),
    "refuse": words.Look("Refused", "bad", "close"),
}


@dataclass
class Draft:
    """What was decided on one review, by prompt, and is not handed in."""

    key: str
    decisions: dict[str, Decision] = field(default_factory=dict)


def read(session: Session, run_id: str) -> tuple[Run, list[ReviewView]]:
    return Run.model_validate(runs.get(session, run_id).state), reviews.waiting(session, store(), run_id)


async def show(run_id: str) -> None:
    sheets.add("run.css")
    sheets.add("answers.css")
    with shell.page("Review", here="runs") as visitor:
        page = _Page(run_id, operates=visitor.operates)
        live.follow_run(run_id, page.look_again)
        run, waiting = await shell.read(lambda session: read(session, run_id))
        page.draw(run, waiting)
        await page.recall()


class _Page:
    def __init__(self, run_id: str, *, operates: bool) -> None:
        self.run_id, self.operates = run_id, operates
        self.waiting: list[ReviewView] | None = None
        self.drafts: dict[str, Draft] = {}
        self.cards: dict[tuple[str, str], _Card] = {}
        self.handed_in = ""

    def draw(self, run: Run, waiting: list[ReviewView]) -> None:
        ui.context.client.title = f"Review of {code.plain(run.spec.name)} · Reflux"
        with ui.element("div").classes("bar head"):
            shell.heading("Review", 1)
            ui.link(code.plain(run.spec.name), f"/runs/{self.run_id}")
        self.place = ui.element("div").classes("stack reviews")
        self._draw(run, waiting)

    def _draw(self, run: Run, waiting: list[ReviewView]) -> None:
        self.waiting = waiting
        self.cards = {}
        self.place.clear()
        with self.place:
            if not waiting:
                ui.label(_nothing(run)).classes("empty")
            for part, review in enumerate(waiting, 1):
                self._draw_review(run, review, f"part {part} of {len(waiting)}" if len(waiting) > 1 else "all")

    def _draw_review(self, run: Run, review: ReviewView, part: str) -> None:
        draft = self.drafts.setdefault(review.key, Draft(review.key))
        with ui.element("section").classes("stack").props(f'aria-label="Corrections of epoch {review.epoch}, {part}"'):
            with ui.element("div").classes("card"):
                shell.heading(f"Epoch {review.epoch}: {len(review.corrections)} corrections wait for you")
                ui.label("Each beats the student's answer, by the evaluator's score. What you let pass is trained on next.")
                if self.operates:
                    self._draw_ends(review, draft)
                else:
                    ui.label("You look with a viewer's key; an operator decides.").classes("quiet")
            for row in review.corrections:
                self.cards[review.key, row.prompt_id] = _Card(self, run, draft, row)
        self._count(review.key)

    def _draw_ends(self, review: ReviewView, draft: Draft) -> None:
        with ui.element("div").classes("bar"):
            draft_left = ui.label().classes("number").props('role="status"')
            hand_in = ui.button("Hand in", icon="send", on_click=lambda: self.hand_in(review.key, None)).props("unelevated")
            rest = "of the rest" if draft.decisions else ""
            approve = ui.button(f"Approve all {rest}".strip(), icon="done_all", on_click=lambda: self.confirm(review, "approve"))
            refuse = ui.button(f"Refuse all {rest}".strip(), icon="block", on_click=lambda: self.confirm(review, "refuse"))
            approve.props("outline")
            refuse.props("outline color=negative")
        self.ends = {**getattr(self, "ends", {}), review.key: (draft_left, hand_in, approve, refuse)}

    def _count(self, key: str) -> None:
        """How many are decided; handing in is possible once all are."""
        if not self.operates or self.waiting is None:
            return
        review = next(one for one in self.waiting if one.key == key)
        decided = sum(row.prompt_id in self.drafts[key].decisions for row in review.corrections)
        left, hand_in, approve, refuse = self.ends[key]
        left.set_text(f"{decided} of {len(review.corrections)} decided")
        hand_in.set_enabled(decided == len(review.corrections))
        for button, word in ((approve, "Approve"), (refuse, "Refuse")):
            button.set_text(f"{word} the rest" if decided else f"{word} all")
            button.set_enabled(decided < len(review.corrections))

    # Deciding

    async def decide(self, key: str, decision: Decision | None, prompt_id: str) -> None:
        if decision is None:
            self.drafts[key].decisions.pop(prompt_id, None)
        else:
            self.drafts[key].decisions[prompt_id] = decision
        self._count(key)
        self._keep(key)

    async def confirm(self, review: ReviewView, others: Literal["approve", "refuse"]) -> None:
        left = len(review.corrections) - len(self.drafts[review.key].decisions)
        what = "approved" if others == "approve" else "refused"
        with self.place, ui.dialog() as dialog, ui.card().classes("dialog"):
            shell.heading(f"Hand in: {left} corrections not decided on are {what}?")
            ui.label("The run goes on with what you have decided. It cannot be taken back.")
            with ui.element("div").classes("bar end"):
                ui.button("Go on reviewing", on_click=lambda: dialog.submit(False)).props("flat")
                ui.button("Hand in", on_click=lambda: dialog.submit(True)).props("unelevated")
        sure = await dialog
        dialog.delete()
        if sure:
            await self.hand_in(review.key, others)

    async def hand_in(self, key: str, others: Literal["approve", "refuse"] | None) -> None:
        decisions = list(self.drafts[key].decisions.values())

        def work(session: Session, by: str) -> bool:
            reviews.decide(session, store(), self.run_id, key, by, decisions, others)
            return True

        self.handed_in = key
        with self.place:  # what the button stands in may be gone by then
            if await shell.act(work, "Handed in. The run goes on."):
                self._forget(key)
        self.handed_in = ""
        await self.look_again()

    async def look_again(self) -> None:
        """Redraw only if another set of corrections waits: what a person is writing stays."""
        if self.waiting is None:
            return
        run, waiting = await shell.read(lambda session: read(session, self.run_id))
        gone = {one.key for one in self.waiting} - {one.key for one in waiting}
        if [one.key for one in waiting] == [one.key for one in self.waiting]:
            return
        others = [key for key in gone if key != self.handed_in and self.drafts.pop(key, Draft(key)).decisions]
        if others:
            ui.notify("Somebody else has decided on these corrections. What you had chosen was not used.", type="warning")
        self._draw(run, waiting)

    # What the browser keeps

    def _keep(self, key: str) -> None:
        kept = json.dumps([decision.model_dump() for decision in self.drafts[key].decisions.values()])
        ui.run_javascript(f"localStorage.setItem({json.dumps(self._place(key))}, {json.dumps(kept)})")

    def _forget(self, key: str) -> None:
        self.drafts.pop(key, None)
        ui.run_javascript(f"localStorage.removeItem({json.dumps(self._place(key))})")

    async def recall(self) -> None:
        """Take up what this browser has kept of the reviews that are open."""
        if not self.operates or not self.waiting:
            return
        await ui.context.client.connected()
        for review in self.waiting:
            kept = await ui.run_javascript(f"localStorage.getItem({json.dumps(self._place(review.key))})", timeout=5)
            for decision in _decisions(kept):
                if (review.key, decision.prompt_id) in self.cards:
                    self.drafts[review.key].decisions[decision.prompt_id] = decision
                    self.cards[review.key, decision.prompt_id].show()
            self._count(review.key)

    def _place(self, key: str) -> str:
        return f"reflux review {self.run_id} {key}"


class _Card:
    """One correction, and what is decided on it."""

    def __init__(self, page: _Page, run: Run, draft: Draft, row: Correction) -> None:
        self.page, self.draft, self.row = page, draft, row
        with ui.element("article").classes("card").props(f'aria-label="{row.prompt_id}"'):
            with ui.element("div").classes("bar"):
                shell.heading(code.plain(row.prompt_id), 3)
                after = row.verdict.overall if row.verdict else None
                ui.label(f"{words.score(row.attempt_verdict.overall)} \u2192 {words.score(after)}").classes("number strong")
                self.chip = ui.element("span").props('role="status"')
                if page.operates:
                    self._draw_buttons()
            ui.html(answer.prompt(row.prompt), sanitize=False)
            hidden = code.hides(row.answer.text)
            if hidden:
                with ui.element("div").classes("notice tone-waiting"):
                    ui.label(f"The correction has characters that are not seen: {'; '.join(hidden[:6])}.")
            ui.html(answer.difference(row, split=True), sanitize=False)
            if row.verdict:
                with ui.expansion("The evidence on the correction"):
                    ui.html(answer.evidence(row.verdict, answer.weights(run.spec), anchors=False), sanitize=False)
        self.show()

    def _draw_buttons(self) -> None:
        with ui.element("div").classes("bar end"):
            ui.button("Approve", icon="check", on_click=lambda: self.choose("approve")).props("outline dense padding='2px 10px'")
            ui.button("Edit", icon="edit", on_click=self.edit).props("outline dense padding='2px 10px'")
            ui.button("Refuse", icon="close", on_click=lambda: self.choose("refuse")).props(
                "outline dense color=negative padding='2px 10px'"
            )

    def show(self) -> None:
        decision = self.draft.decisions.get(self.row.prompt_id)
        self.chip.clear()
        with self.chip:
            shell.chip(LOOKS[decision.decision if decision else ""])

    async def choose(self, word: Word, text: str = "") -> None:
        """The same once more takes it back."""
        known = self.draft.decisions.get(self.row.prompt_id)
        decision: Decision | None = Decision(prompt_id=self.row.prompt_id, decision=word, text=text)
        if known is not None and known.decision == word and word != "edit":
            decision = None
        await self.page.decide(self.draft.key, decision, self.row.prompt_id)
        self.show()

    async def edit(self) -> None:
        known = self.draft.decisions.get(self.row.prompt_id)
        text = known.text if known and known.decision == "edit" else self.row.answer.text
        with ui.dialog() as dialog, ui.card().classes("dialog wide"):
            shell.heading("Edit the correction")
            ui.label("The whole answer as it is to be trained on, with its code block. The evaluator scores it once more.")
            area = ui.textarea("Answer", value=text).props("outlined input-class='mono' autogrow maxlength=200000")
            with ui.element("div").classes("bar end"):
                ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat")
                ui.button("Take this", on_click=lambda: dialog.submit(True)).props("unelevated")
        taken = await dialog
        dialog.delete()
        if taken and area.value.strip():
            await self.choose("edit", area.value)


def _decisions(kept: Any) -> list[Decision]:
    """What a browser had kept; nothing if it is not what was written there."""
    try:
        return [Decision.model_validate(row) for row in json.loads(kept or "[]")]
    except (ValueError, TypeError):
        return []


def _nothing(run: Run) -> str:
    if run.stage.terminal:
        return "The run is over: nothing waits for a review."
    if not run.spec.refining.review:
        return (
            "This run asks nobody: corrections are taken by the evaluator's score. Set refining.review to hold them for a person."
        )
    return "Nothing waits for you now. Corrections come here once the teacher has written and the evaluator has judged them."
