"""The run's curves. Long series come thinned from Postgres; what is new is added to the series that it belongs to."""

from dataclasses import dataclass
from typing import Any

from nicegui import ui
from sqlalchemy.orm import Session

from reflux.scalars import steps_before
from reflux.views import MetricPointView, RunView
from services.api import history
from services.api.dashboard import charts, shell
from services.api.dashboard.charts import Points

NAMES = ("loss", "val_loss", "learning_rate")
MOST = 400  # points of a series, when the page opens; at twice as many it is thinned anew
SHORT = "value => value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : value"  # a learning rate
MORE = 2000  # points looked at in one go


@dataclass
class Curves:
    """By name the points (steps since the run began, value); `last` is the id of the newest one."""

    series: dict[str, Points]
    last: int


def read(session: Session, run: RunView) -> Curves:
    last = history.last_metric(session, run.id)
    offsets = steps_before(run.epochs)
    found = history.metrics(session, run.id, NAMES, MOST)
    return Curves({one.name: [_point(offsets, point) for point in one.points] for one in found}, last)


def read_more(session: Session, run: RunView, after: int) -> Curves:
    offsets, more = steps_before(run.epochs), Curves({}, after)
    for metric_id, name, point in history.metrics_after(session, run.id, NAMES, after, MORE):
        more.series.setdefault(name, []).append(_point(offsets, point))
        more.last = metric_id
    return more


def _point(offsets: dict[int, int], point: MetricPointView) -> list[float | None]:
    return [offsets.get(point.epoch, 0) + point.step, point.value]


def scores(run: RunView) -> list[dict[str, Any]]:
    def data(part: str, of: str = "practice") -> Points:
        found = [(epoch.epoch, getattr(epoch, of)) for epoch in run.epochs]
        return [[number, round(getattr(means, part), 3)] for number, means in found if means is not None]

    target = (run.spec or {}).get("refining", {}).get("target_score")
    return [
        charts.line("practice", "Practice", data("overall"), symbols=True, at=target),
        charts.line("dev", "Dev", data("overall", "dev"), symbols=True),
        *(
            charts.line(part, word, data(part), dashed=True)
            for part, word in (("syntax", "Syntax"), ("protocol", "Words"), ("safety", "Safety"), ("style", "Style"))
        ),
    ]


def corrections(run: RunView) -> list[dict[str, Any]]:
    aim = (run.spec or {}).get("refining", {}).get("min_correction_rate")
    poor: Points = [[epoch.epoch, round(100 * epoch.correction_rate, 1)] for epoch in run.epochs]
    taken: Points = [[epoch.epoch, round(100 * epoch.admitted / epoch.requested, 1)] for epoch in run.epochs if epoch.requested]
    return [
        charts.line("poor", "Poor answers, %", poor, symbols=True, at=100 * aim if aim is not None else None),
        charts.line("taken", "Corrections taken, %", taken, symbols=True, dashed=True),
    ]


class Plots:
    """Four charts. One that has no point yet says what it waits for."""

    def __init__(self, run: RunView, curves: Curves) -> None:
        self.curves = curves
        self.epochs = len(run.epochs)
        with ui.element("section").classes("plots").props('aria-label="Plots"'):
            steps, epochs = "Waits for the first steps of training.", "Waits for the first epoch to be scored."
            if run.terminal:
                steps = epochs = "There is none: the run ended before."
            steps = next((removed.told for removed in run.removed if removed.what == "metrics"), steps)
            self.loss, self.rate = _Plot("Loss", steps), _Plot("Learning rate", steps)
            self.scores, self.poor = _Plot("Scores by epoch", epochs), _Plot("Correction rate", epochs)
        self._draw_curves()
        self._draw_epochs(run)

    async def show(self, run: RunView) -> None:
        """What has come since the last look."""
        if len(run.epochs) != self.epochs:
            self.epochs = len(run.epochs)
            self._draw_epochs(run)
        more = await shell.read(lambda session: read_more(session, run, self.curves.last))
        if not more.series:
            return
        self.curves.last = more.last
        for name, points in more.series.items():
            self.curves.series.setdefault(name, []).extend(points)
        if any(len(points) > 2 * MOST for points in self.curves.series.values()):
            self.curves = await shell.read(lambda session: read(session, run))
        self._draw_curves()

    def _draw_curves(self) -> None:
        series = self.curves.series
        val = series.get("val_loss", [])
        self.loss.draw(
            [
                charts.line("loss", "Training", series.get("loss", [])),
                charts.line("val_loss", "Validation", val, symbols=len(val) < 40),
            ],
            x="step",
        )
        self.rate.draw([charts.line("learning_rate", "Learning rate", series.get("learning_rate", []))], x="step")

    def _draw_epochs(self, run: RunView) -> None:
        self.scores.draw(scores(run), x="epoch", top=10)
        self.poor.draw(corrections(run), x="epoch", top=100)


class _Plot:
    def __init__(self, title: str, empty: str) -> None:
        self.title = title
        self.chart: ui.echart | None = None
        self.sizes: dict[str, int] = {}
        with ui.element("div").classes("card plot") as self.place:
            shell.heading(title)
            self.waits = ui.label(empty).classes("empty")

    def draw(self, series: list[dict[str, Any]], *, x: str, top: float | None = None) -> None:
        """Draw it once; then give the chart those series alone that have new points."""
        sizes = {one["id"]: len(one["data"]) for one in series}
        if not any(sizes.values()):
            return
        if self.chart is None:
            self.waits.delete()
            with self.place:
                drawn = charts.options(series, x=x, whole_x=x == "epoch", top=top)
                drawn["yAxis"]["axisLabel"][":formatter"] = SHORT
                self.chart = charts.chart(self.title, drawn)
        else:
            new = [{"id": one["id"], "data": one["data"]} for one in series if sizes[one["id"]] != self.sizes.get(one["id"])]
            self.chart.options["series"] = series
            if new:
                self.chart.run_chart_method("setOption", {"series": new})
        self.sizes = sizes
