"""A run: what is going on and what can be done, figures, curves, timeline, epochs, logs, artifacts. All of it live."""

from dataclasses import dataclass

from markupsafe import Markup
from nicegui import ui
from sqlalchemy.orm import Session

from reflux.views import MetricPointView, RunView
from services.api import runs
from services.api.dashboard import address, code, comparison, kpis, live, logs, plots, sheets, shell, timeline, words
from services.api.dashboard.control_panel import ControlPanel
from services.api.dashboard.downloads import Downloads
from services.api.dashboard.epochs import Epochs
from services.api.dashboard.kpis import Kpis
from services.api.dashboard.logs import Logs
from services.api.dashboard.plots import Curves, Plots
from services.api.dashboard.sides import flattened
from services.api.dashboard.timeline import Timeline, Times
from services.api.problems import ProblemError


@dataclass
class Opening:
    """Everything that the page shows when it is opened."""

    run: RunView
    latest: dict[str, MetricPointView]
    curves: Curves
    times: Times
    lines: logs.Lines


def look(session: Session, run_id: str) -> RunView:
    return runs.view(session, runs.get(session, run_id), shell.state().settings.artifacts_url, full=True)


def opening(session: Session, run_id: str, wanted: logs.Filter) -> Opening:
    run = look(session, run_id)
    return Opening(
        run,
        kpis.read(session, run_id),
        plots.read(session, run),
        timeline.read(session, run),
        logs.read(session, run_id, wanted),
    )


async def show(run_id: str, service: str = "", level: str = "") -> None:
    sheets.add("run.css")
    with shell.page("A run", here="runs") as visitor:
        page = _Page(run_id, operates=visitor.operates)
        live.follow_run(run_id, page.refresh)
        opened = await shell.read(lambda session: opening(session, run_id, (service, level)))
        page.draw(opened, (service, level))


class _Page:
    def __init__(self, run_id: str, *, operates: bool) -> None:
        self.run_id, self.operates = run_id, operates
        self.drawn = False

    def draw(self, opened: Opening, wanted: logs.Filter) -> None:
        run = opened.run
        ui.context.client.title = f"{code.plain(run.name)} · Reflux"
        self.head(run)
        self.control = ControlPanel(run, operates=self.operates, refresh=self.refresh)
        self.kpis = Kpis()
        self.kpis.show(run, opened.latest)
        self.compared = comparison.Compared(run)
        self.plots = Plots(run, opened.curves)
        self.timeline = Timeline(run, opened.times)
        self.epochs = Epochs(run)
        self.logs = Logs(run, wanted, opened.lines, self.choose)
        Downloads(run.id)
        settings(run)
        address.on_move(self.moved)
        self.drawn = True

    def head(self, run: RunView) -> None:
        with ui.element("div").classes("bar head"):
            shell.heading(code.plain(run.name), 1)
            ui.label(run.id).classes("quiet mono")
            ui.label(words.RECIPES.get(run.recipe, run.recipe)).classes("quiet")
            if run.origin:
                ui.link(f"forked from epoch {run.origin.epoch} of {run.origin.run_id}", f"/runs/{run.origin.run_id}")
            with ui.element("nav").classes("bar end").props('aria-label="This run"'):
                if run.recipe == "distill":
                    ui.button("Answers", icon="rate_review").props(f'outline type=a href="/runs/{run.id}/answers"')
                ui.button("Compare", icon="compare_arrows").props(f'flat type=a href="/compare?runs={run.id}"')

    async def refresh(self) -> None:
        """What has changed since the last look, where it has."""
        if not self.drawn:
            return
        try:
            run, latest = await shell.read(lambda session: (look(session, self.run_id), kpis.read(session, self.run_id)))
        except ProblemError:
            shell.deleted()
            return
        self.control.show(run)
        self.kpis.show(run, latest)
        self.compared.show(run)
        self.epochs.show(run)
        await self.plots.show(run)
        await self.timeline.show(run)
        await self.logs.show()

    async def choose(self, wanted: logs.Filter) -> None:
        address.push(f"/runs/{self.run_id}{address.query({'service': wanted[0], 'level': wanted[1]})}")
        await self.logs.choose(wanted)

    async def moved(self, query: dict[str, str]) -> None:
        await self.logs.choose((query.get("service", ""), query.get("level", "")))


def settings(run: RunView) -> None:
    """The spec with every default resolved, and what the user attached."""
    with ui.element("section").classes("card").props('aria-label="Settings"'), ui.expansion("Settings"):
        for name, value in run.metadata.items():
            ui.label(code.plain(f"{name}: {value}")).classes("quiet")
        ui.html(spec_of(run), sanitize=False)


def spec_of(run: RunView) -> Markup:
    rows = Markup("").join(
        Markup("<tr><th scope=row>{}</th><td>{}</td></tr>").format(name, code.visible(value))
        for name, value in flattened(run.spec or {}).items()
    )
    return Markup('<table class="settings small">{}</table>').format(rows)
