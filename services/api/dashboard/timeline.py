"""Stages and epochs as a Gantt: who worked when, and where the run waited for a worker, a person or a resume."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from nicegui import ui
from sqlalchemy.orm import Session

from reflux.views import RunView
from services.api import history
from services.api.dashboard import charts, shell, words
from services.api.history import Work

# Each lane has a row for each of these; `waits` are drawn in the row of whoever was waited for.
ROWS = {"stages": "Run", "gpu": "Student", "evaluator": "Evaluator", "teacher": "Teacher", "person": "Person"}
ROW_OF = {"train": "gpu", "run_job": "gpu", "generate": "gpu", "export_model": "gpu", "score": "evaluator", "judge": "evaluator"}
ROW_OF |= {"compare": "evaluator", "review": "person"}
COLOURS = {"gpu": "var(--series-1)", "evaluator": "var(--series-3)", "teacher": "var(--series-2)", "person": "var(--series-4)"}
STAGES = {
    "training": COLOURS["gpu"],
    "refining": COLOURS["evaluator"],
    "teaching": COLOURS["teacher"],
    "comparing": COLOURS["evaluator"],
}
WAITED = timedelta(seconds=1)  # less is no wait
SHOWN_LANES = 12
RENDER = """(params, api) => {
  const lane = api.value(0), from = api.coord([api.value(1), lane]), to = api.coord([api.value(2), lane]);
  const band = api.size([0, 1])[1] * 0.78, rows = api.value(4), height = band / rows;
  const left = Math.max(from[0], params.coordSys.x);
  const right = Math.min(Math.max(to[0], from[0] + 2), params.coordSys.x + params.coordSys.width);
  if (right <= left) return;
  const bar = {type: 'rect', shape: {x: left, y: from[1] - band / 2 + api.value(3) * height, width: right - left,
    height: Math.max(height - 1, 2), r: 2}, style: {fill: api.visual('color'), opacity: api.value(5)}};
  const word = rows === 1 && right - left > 70 ? String(api.value(6)) : '';
  if (!word) return bar;
  const style = {text: word, fill: 'var(--card)', fontSize: 11, width: right - left - 6, overflow: 'truncate'};
  bar.textContent = {type: 'text', style};
  bar.textConfig = {position: 'inside'};
  return bar;
}"""


@dataclass(frozen=True)
class Bar:
    """`row` is a place within the lane; `waits`: nobody worked."""

    lane: str
    row: str
    word: str
    start: datetime
    stop: datetime
    tone: str
    waits: bool = False

    @property
    def told(self) -> str:
        took = words.span((self.stop - self.start).total_seconds())
        return f"{self.lane}: {self.word}, {took} from {self.start:%H:%M:%S} UTC"


def bars(run: RunView, statuses: list[tuple[str, datetime]], works: Iterable[Work], now: datetime) -> list[Bar]:
    end = run.ended_at or now
    return [*_of_statuses(statuses, end, over=run.terminal), *_of_works(list(works), end)]


def _of_statuses(statuses: list[tuple[str, datetime]], end: datetime, *, over: bool) -> list[Bar]:
    found = []
    for (status, start), (_, stop) in zip(statuses, [*statuses[1:], ("", end)], strict=True):
        if over and words.over(status):
            continue
        look = words.status(status)
        found.append(Bar("Run", "stages", look.word.lower(), start, stop, look.tone, waits=look.tone == "waiting"))
    return found


def _of_works(works: list[Work], end: datetime) -> list[Bar]:
    by_place: dict[tuple[str, str], list[Work]] = {}
    for work in works:
        by_place.setdefault((_lane(work), work.kind), []).append(work)
    found = []
    for (lane, kind), group in by_place.items():
        row = ROW_OF.get(kind, "teacher")
        word = words.TASKS.get(kind, kind)
        worked = _merged([(w.claimed_at, w.ended_at or end) for w in group if w.claimed_at and w.worker])
        if row == "person":
            reviews = _merged([(w.due_at, w.ended_at or end) for w in group])
            found += [Bar(lane, row, "waits for your review", start, stop, "waiting", waits=True) for start, stop in reviews]
            continue
        found += [Bar(lane, row, word, start, stop, "busy") for start, stop in worked]
        waited = _merged([(w.due_at, w.claimed_at or w.ended_at or end) for w in group])
        found += [
            Bar(lane, row, f"waits for a worker that {word}", start, stop, "waiting", waits=True)
            for start, stop in _without(waited, worked)
            if stop - start >= WAITED
        ]
    return found


def _lane(work: Work) -> str:
    if work.stage in ("training", "refining"):
        return f"Epoch {work.epoch}"
    return "Before" if work.stage in ("queued", "validating", "provisioning", "preparing", "teaching") else "After"


def _merged(spans: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Spans that touch, or nearly, as one."""
    found: list[tuple[datetime, datetime]] = []
    for start, stop in sorted(span for span in spans if span[1] >= span[0]):
        if found and start - found[-1][1] < WAITED:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return found


def _without(spans: list[tuple[datetime, datetime]], taken: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    found = []
    for start, stop in spans:
        at = start
        for begun, ended in taken:
            if ended <= at or begun >= stop:
                continue
            if begun > at:
                found.append((at, begun))
            at = max(at, ended)
        if at < stop:
            found.append((at, stop))
    return found


@dataclass
class Times:
    statuses: list[tuple[str, datetime]]
    works: dict[str, Work]
    read_at: datetime


def read(session: Session, run: RunView, before: Times | None = None) -> Times:
    """All times, or, with what was read before, those that may have changed."""
    now = history.now(session)
    since = before.read_at - timedelta(seconds=10) if before else None  # a transaction that was open then may be seen now
    works = (before.works if before else {}) | {work.key: work for work in history.works(session, run.id, since)}
    known = before.statuses if before and before.statuses and before.statuses[-1][0] == run.status else None
    return Times(known or history.statuses(session, run.id), works, now)


class Timeline:
    def __init__(self, run: RunView, times: Times) -> None:
        self.times = times
        self.drawn: list[Bar] = []
        self.chart: ui.echart | None = None
        self.lanes: list[str] = []
        with ui.element("section").classes("card timeline").props('aria-label="Timeline"') as self.place:
            with ui.element("div").classes("bar"):
                shell.heading("Timeline")
                with ui.element("ul").classes("legend small"):
                    for row in ("gpu", "teacher", "evaluator", "person"):
                        _entry(COLOURS[row], ROWS[row])
                    _entry("var(--waits)", "waiting")
            self.waits = ui.label("Waits for the run to start.").classes("empty")
        self._draw(run)

    async def show(self, run: RunView) -> None:
        self.times = await shell.read(lambda session: read(session, run, self.times))
        self._draw(run)

    def _draw(self, run: RunView) -> None:
        self.drawn = bars(run, self.times.statuses, self.times.works.values(), self.times.read_at)
        if not self.drawn:
            return
        lanes = list(dict.fromkeys(bar.lane for bar in sorted(self.drawn, key=_order)))
        data = [_item(bar, lanes) for bar in self.drawn]
        if self.chart is None:
            self.waits.delete()
        elif lanes == self.lanes:
            self.chart.options["series"][0]["data"] = data
            self.chart.run_chart_method("setOption", {"series": [{"id": "bars", "data": data}]})
            return
        else:
            self.chart.delete()
        self.lanes = lanes
        with self.place:
            self.chart = charts.chart("Timeline", _options(lanes, data), "chart")
            self.chart.style(f"height: {70 + 30 * min(len(lanes), SHOWN_LANES)}px")


def _order(bar: Bar) -> tuple[int, int]:
    if bar.lane.startswith("Epoch"):
        return 2, int(bar.lane.split()[1])
    return {"Run": 0, "Before": 1, "After": 3}[bar.lane], 0


def _item(bar: Bar, lanes: list[str]) -> dict[str, Any]:
    rows = list(COLOURS)
    place = 0 if bar.row == "stages" else rows.index(bar.row)
    colour = STAGES.get(bar.word, "var(--off)") if bar.row == "stages" else COLOURS[bar.row]
    count = 1 if bar.row == "stages" else len(rows)
    times = [bar.start.timestamp() * 1000, bar.stop.timestamp() * 1000]
    shade = 0.45 if bar.waits else 1
    value = [lanes.index(bar.lane), *times, place, count, shade, bar.word]
    return {"name": bar.told, "value": value, "itemStyle": {"color": "var(--waits)" if bar.waits else colour}}


def _options(lanes: list[str], data: list[dict[str, Any]]) -> dict[str, Any]:
    made = charts.options([], x="")
    axis = {"axisLabel": {"color": charts.QUIET, "hideOverlap": True}, "axisLine": {"lineStyle": {"color": "var(--line)"}}}
    zoom: list[dict[str, Any]] = [{"type": "inside", "xAxisIndex": 0, "filterMode": "weakFilter", "zoomOnMouseWheel": "ctrl"}]
    many = len(lanes) > SHOWN_LANES
    if many:  # the newest lanes, and the time that they took
        first = len(lanes) - SHOWN_LANES
        since = min(item["value"][1] for item in data if item["value"][0] >= first)
        slider = {"type": "slider", "showDetail": False, "brushSelect": False, "borderColor": "var(--line)"}
        zoom[0]["startValue"] = since
        zoom.append(slider | {"xAxisIndex": 0, "height": 14, "bottom": 4, "startValue": since, "filterMode": "weakFilter"})
        zoom.append(slider | {"yAxisIndex": 0, "width": 14, "right": 2, "startValue": first, "endValue": len(lanes) - 1})
    return made | {
        "legend": {"show": False},
        "grid": {"left": 74, "right": 26, "top": 8, "bottom": 48 if many else 30},
        "tooltip": made["tooltip"] | {"trigger": "item", "formatter": "{b}"},
        "xAxis": {**axis, "type": "time", "splitLine": {"show": True, "lineStyle": {"color": "var(--line)"}}},
        "yAxis": {**axis, "type": "category", "inverse": True, "data": lanes, "axisTick": {"show": False}},
        "dataZoom": zoom,
        "series": [{
            "id": "bars", "type": "custom", ":renderItem": RENDER, "encode": {"x": [1, 2], "y": 0}, "data": data, "clip": True,
        }],
    }  # fmt: skip


def _entry(colour: str, word: str) -> None:
    with ui.element("li"):
        ui.element("span").classes("swatch").style(f"background: {colour}")
        ui.label(word)
