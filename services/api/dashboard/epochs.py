"""The finished epochs as a table, each with a way to its answers."""

from markupsafe import Markup
from nicegui import ui

from reflux.summary import EpochMetrics, Scores
from reflux.views import RunView
from services.api.dashboard import shell, words

SCORES = ("Practice", "Dev", "Syntax", "Words", "Safety", "Style")
HEAD = ("Epoch", "Loss", "Validation", *SCORES, "Compile", "Poor", "Taken", "Cost", "Took", "Answers")


class Epochs:
    def __init__(self, run: RunView) -> None:
        self.drawn: tuple[int, int | None] = (-1, None)
        with ui.element("section").classes("card").props('aria-label="Epochs"'):
            shell.heading("Epochs")
            self.table = (
                ui.html("", sanitize=False).classes("scrolling tall").props('tabindex=0 role=region aria-label="Table of epochs"')
            )
            self.waits = ui.label("There is none." if run.terminal else "Waits for the first epoch to end.").classes("empty")
        self.show(run)

    def show(self, run: RunView) -> None:
        now = len(run.epochs), run.best_epoch
        if now != self.drawn:
            self.drawn = now
            self.table.set_content(table(run))
            self.table.set_visibility(bool(run.epochs))
            self.waits.set_visibility(not run.epochs)


def table(run: RunView) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in HEAD)
    rows = Markup("").join(_row(run, epoch) for epoch in reversed(run.epochs))
    return Markup('<table class="grid epochs"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(head, rows)


def _row(run: RunView, epoch: EpochMetrics) -> Markup:
    best = Markup(' <span class="best" title="The best epoch">★<span class="unseen">best</span></span>')
    number = Markup("<b>{}</b>{}").format(epoch.epoch, best if epoch.epoch == run.best_epoch else "")
    ours = run.origin is None or epoch.epoch > run.origin.epoch
    of = run.id if ours or run.origin is None else run.origin.run_id
    link = Markup('<a href="/runs/{}/answers?epoch={}" aria-label="Answers of epoch {}">Answers</a>').format(
        of, epoch.epoch, epoch.epoch
    )
    cells = (
        number,
        f"{epoch.train_loss:.3f}",
        "\u2013" if epoch.val_loss is None else f"{epoch.val_loss:.3f}",
        *_scores(epoch.practice, epoch.dev),
        f"{epoch.practice.compiling:.0%}",
        f"{epoch.correction_rate:.0%}",
        f"{epoch.admitted} of {epoch.requested}",
        words.dollars(epoch.usage.cost_usd),
        words.span(sum(epoch.seconds.values())) if epoch.seconds else "\u2013",
        link if run.recipe == "distill" else "",
    )
    return Markup("<tr>{}</tr>").format(
        Markup("").join(
            Markup('<td class="number" data-label="{}">{}</td>').format(name, cell)
            for name, cell in zip(HEAD, cells, strict=True)
        )
    )


def _scores(practice: Scores, dev: Scores | None) -> tuple[str, ...]:
    parts = (practice.syntax, practice.protocol, practice.safety, practice.style)
    if not practice.count:
        return ("\u2013",) * len(SCORES)
    return f"{practice.overall:.2f}", words.score(dev.overall if dev else None), *(f"{part:.1f}" for part in parts)
