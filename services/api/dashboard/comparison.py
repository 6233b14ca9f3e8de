"""Base against best on the test prompts: two rows of means, and how sure one may be of the difference."""

from markupsafe import Markup
from nicegui import ui

from reflux.summary import Comparison, Scores
from reflux.views import RunView
from services.api.dashboard import shell
from services.api.dashboard.code import MINUS

HEAD = ("Test prompts", "Score", "Syntax", "Words", "Safety", "Style", "Compile")


class Compared:
    """A card that is there once there is something to compare."""

    def __init__(self, run: RunView) -> None:
        self.place = ui.element("div")
        self.drawn = False
        self.show(run)

    def show(self, run: RunView) -> None:
        if run.comparison and not self.drawn:
            self.drawn = True
            with self.place, ui.element("section").classes("card").props('aria-label="Base against student"'):
                shell.heading("Base against student")
                ui.html(table(run.comparison), sanitize=False).classes("scrolling")
                ui.html(interval(run.comparison), sanitize=False)


def table(compared: Comparison) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in HEAD)
    rows = Markup("").join(
        _row(name, scores) for name, scores in (("Base model", compared.base), ("Trained student", compared.best))
    )
    return Markup('<table class="grid"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(head, rows)


def interval(compared: Comparison) -> Markup:
    """The difference with its interval, drawn between -10 and 10 and said in words."""
    low, high, middle = (50 + 5 * value for value in (compared.low, compared.high, compared.difference))
    return Markup(
        '<p class="told">{}</p><div class="interval" aria-hidden="true"><i class="zero"></i>'
        '<i class="range {}" style="left:{:.1f}%;width:{:.1f}%"></i><i class="mean" style="left:{:.1f}%"></i></div>'
    ).format(said(compared), "gain" if compared.gained else "", low, max(high - low, 0.5), middle)


def said(compared: Comparison) -> str:
    low, high, difference = (signed(value) for value in (compared.low, compared.high, compared.difference))
    what = "gained" if compared.difference >= 0 else "lost"
    sure = "" if compared.gained or compared.high < 0 else "; that may be chance"
    return (
        f"The student {what} {difference} (95% interval {low} to {high}; "
        f"{compared.prompts} prompts, {compared.samples} answers each){sure}."
    )


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)


def _row(name: str, scores: Scores) -> Markup:
    values = (scores.overall, scores.syntax, scores.protocol, scores.safety, scores.style)
    cells = (f"{values[0]:.2f}", *(f"{value:.1f}" for value in values[1:]), f"{scores.compiling:.0%}")
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(
        name,
        Markup("").join(
            Markup('<td class="number" data-label="{}">{}</td>').format(head, cell)
            for head, cell in zip(HEAD[1:], cells, strict=True)
        ),
    )
