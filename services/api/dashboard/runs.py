"""`/`: the runs there are, newest first, by page; what is looked for stands in the address."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

from nicegui import ui
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from reflux.views import RunList, RunView
from services.api.dashboard import live, shell, spark, words
from services.api.tables import RunRow

PAGE = 25
NAMES = 200  # that the search offers
COLUMNS = ("", "Run", "Status", "Progress", "Epoch", "Score", "Cost", "Begun", "Took")


@dataclass
class Wanted:
    """What the address asks for."""

    status: str = ""
    recipe: str = ""
    name: str = ""
    after: str = ""

    def address(self, **changes: str) -> str:
        query = {name: value for name, value in {**vars(self), **changes}.items() if value}
        return f"/?{urlencode(query)}" if query else "/"


async def show(status: str = "", recipe: str = "", name: str = "", after: str = "") -> None:
    wanted = Wanted(status, recipe, name.strip(), after)
    with shell.page("Runs", here="runs") as visitor:
        table = Table(wanted, operates=visitor.operates)
        live.follow_all(table.look_again)
        found, names = await shell.read(lambda session: (_page(session, wanted), _names(session)))
        with ui.element("div").classes("bar"):
            shell.heading("Runs", 1)
            _filters(wanted, names)
            with ui.element("div").classes("bar end"):
                table.compare = ui.button("Compare", icon="compare_arrows", on_click=table.open_compare)
                table.compare.props("flat dense no-caps padding=4px_10px")
                if visitor.operates:
                    with ui.element("a").props('href="/new"').classes("button"):
                        ui.icon("add").props("aria-hidden=true")
                        shell.text("New run")
        table.place = ui.element("div").classes("stack")
        table.draw(found)


def _page(session: Session, wanted: Wanted) -> RunList:
    page = shell.state().pages.newest(session, limit=PAGE, **vars(wanted))
    return RunList.model_validate_json(page)


def _names(session: Session) -> list[str]:
    newest = select(RunRow.name).group_by(RunRow.name).order_by(func.max(RunRow.created_at).desc()).limit(NAMES)
    return sorted(session.scalars(newest))


def _filters(wanted: Wanted, names: list[str]) -> None:
    """A plain form: what it sends is the address, so that it can be kept, and gone back from."""
    submit = "(e) => e.target.form.requestSubmit()"
    with ui.element("form").props('action="/" method="get" role="search"').classes("bar filters"):
        with ui.element("input").props(
            'type=search name=name list=names placeholder="Name" aria-label="Name" autocomplete=off'
        ) as box:
            box.props["^value"] = wanted.name  # as an attribute: what is typed stays when the page is drawn again
        with ui.element("datalist").props("id=names"):
            for name in names:
                ui.html("", sanitize=False, tag="option").props["value"] = name
        looks = {key: look.word for key, look in words.STATUSES.items()}
        for field_name, label, choices, chosen in (
            ("status", "Any status", looks, wanted.status),
            ("recipe", "Any recipe", words.RECIPES, wanted.recipe),
        ):
            with ui.element("select").props(f'name={field_name} aria-label="{label.removeprefix("Any ").capitalize()}"') as box:
                box.on("change", js_handler=submit)
                for value, word in {"": label, **choices}.items():
                    option = shell.text(word, "option")
                    option.props["value"] = value
                    option.props["selected"] = value == chosen
        if any((wanted.status, wanted.recipe, wanted.name)):
            ui.link("Show all", "/").classes("small")


Draw = Callable[[], object]


@dataclass
class Row:
    """A run's row as it is drawn: by cell what it was drawn from, so that only what has changed is drawn again."""

    cells: list[ui.element]
    drawn: list[object]


@dataclass
class Table:
    wanted: Wanted
    operates: bool
    rows: dict[str, Row] = field(default_factory=dict)
    chosen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.place: ui.element
        self.compare: ui.button

    async def look_again(self) -> None:
        self.draw(await shell.read(lambda session: _page(session, self.wanted)))

    def draw(self, found: RunList) -> None:
        if list(self.rows) != [run.id for run in found.data] or not found.data:
            self._draw_all(found)
        for run in found.data:
            self._fill(self.rows[run.id], run)
        self._count()

    def _draw_all(self, found: RunList) -> None:
        self.place.clear()
        self.rows = {}
        self.chosen &= {run.id for run in found.data}
        with self.place:
            if not found.data:
                _nothing(self.wanted, operates=self.operates)
                return
            with ui.element("table").classes("grid runs"):
                with ui.element("thead"), ui.element("tr"):
                    for column in COLUMNS:
                        shell.text(column or "Choose", "th", "" if column else "pick").props("scope=col")
                with ui.element("tbody"):
                    for run in found.data:
                        with ui.element("tr"):
                            cells = [
                                ui.element("td").props(f'data-label="{column}"' if column not in ("", "Run") else "")
                                for column in COLUMNS
                            ]
                        cells[0].classes("pick")
                        cells[1].classes("wide")
                        self.rows[run.id] = Row(cells, [None] * len(cells))
            self._turn_pages(found)

    def _turn_pages(self, found: RunList) -> None:
        with ui.element("nav").classes("bar").props('aria-label="Pages of runs"'):
            if self.wanted.after:
                ui.link("Newest", self.wanted.address(after=""))
            if found.has_more:
                ui.link("Older runs", self.wanted.address(after=found.data[-1].id)).classes("end")

    def _fill(self, row: Row, run: RunView) -> None:
        for place, (seen, draw) in enumerate(self._cells(run)):
            if row.drawn[place] != (seen,):
                row.drawn[place] = (seen,)
                row.cells[place].clear()
                with row.cells[place]:
                    draw()

    def _cells(self, run: RunView) -> list[tuple[object, Draw]]:
        """What each cell shows, and how it is drawn."""
        now = datetime.now(UTC)
        scores = [(epoch.practice.overall, epoch.choosing_score) for epoch in run.epochs]
        took = ((run.ended_at or now) - run.started_at).total_seconds() if run.started_at else None
        percent = None if run.terminal or run.status == "queued" else (run.progress.percent, words.span(run.progress.eta_seconds))
        cost = (run.usage.cost_usd, run.estimate.cost_usd if run.estimate else None)
        times = (words.ago(run.created_at, now), words.span(took))
        return [
            (run.id, lambda: self._choose(run)),
            (run.id, lambda: _name(run)),
            ((run.status, run.health, run.waits_for_review), lambda: _status(run)),
            (percent, lambda: _progress(run)),
            ((run.epoch, run.best_epoch), lambda: _epoch(run)),
            (scores, lambda: _scores(run)),
            (cost, lambda: _cost(run)),
            (times[0], lambda: shell.text(times[0], classes="number").props(f'title="{words.moment(run.created_at)}"')),
            (times[1], lambda: shell.text(times[1], classes="nothing" if took is None else "number")),
        ]

    def _choose(self, run: RunView) -> None:
        box = ui.element("input").props("type=checkbox")
        box.props["aria-label"] = f"Choose {run.name}"

        def chosen(event: object) -> None:
            (self.chosen.add if getattr(event, "args", False) else self.chosen.discard)(run.id)
            self._count()

        box.on("change", chosen, js_handler="(e) => emit(e.target.checked)")

    def _count(self) -> None:
        enough = len(self.chosen) > 1
        self.compare.set_enabled(enough)
        self.compare.set_text(f"Compare {len(self.chosen)}" if enough else "Compare")
        self.compare.props["title"] = "" if enough else "Choose two runs or more"

    def open_compare(self) -> None:
        ui.navigate.to(f"/compare?runs={','.join(run_id for run_id in self.rows if run_id in self.chosen)}")


def _nothing(wanted: Wanted, *, operates: bool) -> None:
    with ui.element("div").classes("card empty"):
        if any(vars(wanted).values()):
            shell.text("No run is like that.", "p")
            ui.link("Show all runs", "/")
            return
        shell.text("There is no run yet.", "p")
        if operates:
            ui.link("Start the first one", "/new")
        else:
            shell.text("An operator's key can start one.", "p")


def _name(run: RunView) -> None:
    ui.link(run.name, f"/runs/{run.id}").classes("strong")
    shell.text(f"{words.RECIPES.get(run.recipe, run.recipe)} · {run.id}", "div", "small quiet number")


def _status(run: RunView) -> None:
    with ui.element("div").classes("chips"):
        shell.chip(words.REVIEW if run.waits_for_review else words.status(run.status))
        if run.health != "ok":
            shell.chip(words.health(run.health))


def _progress(run: RunView) -> None:
    if run.terminal or run.status == "queued":
        shell.text("—", classes="nothing")
        return
    percent = run.progress.percent
    told = f"{percent:.0f} %" + (f", {words.span(run.progress.eta_seconds)} left" if run.progress.eta_seconds else "")
    meter = ui.html(f'<span style="width:{percent:.0f}%"></span>', sanitize=False, tag="div").classes("meter")
    meter.props(f'role=progressbar aria-valuemin=0 aria-valuemax=100 aria-valuenow={percent:.0f} aria-label="Progress"')
    shell.text(told, "div", "small quiet number")


def _epoch(run: RunView) -> None:
    shell.text(f"{run.epoch} / {run.max_epochs}" if run.epoch else "—", classes="number" if run.epoch else "nothing")
    if run.best_epoch:
        shell.text(f"best {run.best_epoch}", "div", "small quiet number")


def _scores(run: RunView) -> None:
    if not run.epochs:
        shell.text("—", classes="nothing")
        return
    best = next((epoch for epoch in run.epochs if epoch.epoch == run.best_epoch), run.epochs[-1])
    with ui.element("div").classes("score"):
        shell.text(words.score(best.choosing_score), classes="strong number")
        spark.line([epoch.practice.overall for epoch in run.epochs], "Scores of the practice prompts by epoch")


def _cost(run: RunView) -> None:
    shell.text(words.dollars(run.usage.cost_usd), classes="number")
    if run.estimate and not run.terminal:
        shell.text(f"of about {words.dollars(run.estimate.cost_usd)}", "div", "small quiet number")
