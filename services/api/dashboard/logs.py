"""What the workers say, live: the newest lines of all or of one service and level, and how many errors there are."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from nicegui import ui
from sqlalchemy.orm import Session

from reflux.views import LogView, RunView
from services.api import history
from services.api.dashboard import code, shell, words

OPENED, KEPT, MORE = 200, 500, 300  # lines: when the page opens, in the page at most, of one look
WRITTEN_WITHIN = timedelta(seconds=5)
LEVELS = {"": "All levels", "info": "Info", "warning": "Warnings", "error": "Errors"}
SERVICES = {"": "All services", **words.WORKERS}
Filter = tuple[str, str]  # of service and level; "" is all


@dataclass
class Lines:
    """The newest lines that pass a filter; how many there are of each service and level; the id of the run's last line."""

    shown: list[LogView]
    counts: Counter[Filter]
    last: int


def read(session: Session, run_id: str, wanted: Filter) -> Lines:
    service, level = wanted
    last = history.last_log(session, run_id)
    shown = history.newest_logs(session, run_id, upto=last, limit=OPENED, service=service or None, level=level or None)
    return Lines(shown, Counter(history.log_counts(session, run_id)), last)


class Logs:
    """`chosen` is told when another filter was chosen."""

    def __init__(self, run: RunView, wanted: Filter, lines: Lines, chosen: Callable[[Filter], Awaitable[None]]) -> None:
        self.run_id = run.id
        self.wanted, self.counts, self.last = wanted, lines.counts, lines.last
        self.seen: set[int] = set()
        with ui.element("section").classes("card logs").props('id=logs aria-label="Logs"'):
            with ui.element("div").classes("bar"):
                shell.heading("Logs")
                self.errors = ui.label().props('role="status"')
                with ui.element("div").classes("bar end"):
                    self.service = _select(SERVICES, wanted[0], "Service")
                    self.level = _select(LEVELS, wanted[1], "Level")
            self.waits = ui.label(_waits_for(run)).classes("empty")
            self.log = ui.log(max_lines=KEPT).classes("mono").props('tabindex=0 role=log aria-label="Lines"')
        self._push(lines.shown)
        self._to_end()

        async def choose() -> None:
            filtered = str(self.service.value), str(self.level.value)
            if filtered != self.wanted:
                await chosen(filtered)

        self.service.on_value_change(choose)
        self.level.on_value_change(choose)

    async def show(self) -> None:
        """The lines that came since the last look. One that was being written when a later one was read is not missed."""
        while await self._show_more():
            pass

    async def _show_more(self) -> bool:
        """Whether there may be still more."""
        last = self.last
        found = await shell.read(lambda s: history.logs(s, self.run_id, after=last, limit=MORE, service=None, level=None))
        new = [line for line in found if line.id not in self.seen]
        self.seen |= {line.id for line in new}
        if found:
            old = [line.id for line in found if found[-1].at - line.at > WRITTEN_WITHIN]
            self.last = found[-1].id if len(found) == MORE else max(old, default=last)
            self.seen = {seen for seen in self.seen if seen > self.last}
        if new:
            self.counts.update((line.service, line.level) for line in new)
            self._push([line for line in new if _passes(line, self.wanted)])
        return len(found) == MORE

    async def choose(self, wanted: Filter) -> None:
        self.wanted = wanted
        lines = await shell.read(lambda session: read(session, self.run_id, wanted))
        self.counts, self.last, self.seen = lines.counts, lines.last, set()
        self.service.set_value(wanted[0])
        self.level.set_value(wanted[1])
        self.log.clear()
        self._push(lines.shown)
        self._to_end()

    def _to_end(self) -> None:
        """It keeps to its end by itself, once it is there."""
        end = f"getElement({self.log.id})?.$refs.qRef?.setScrollPosition('vertical', 1e7)"
        ui.run_javascript(f"setTimeout(() => {end}, 100)")

    def _push(self, lines: list[LogView]) -> None:
        for line in lines:
            self.log.push(_said(line), classes=f"log-{line.level}")
        errors = sum(count for (_, level), count in self.counts.items() if level == "error")
        self.errors.set_text(f"{errors:,} error{'s' if errors != 1 else ''}" if errors else "no errors")
        self.errors.classes(replace="problem" if errors else "quiet")
        total = sum(count for (service, level), count in self.counts.items() if _matches(service, level, self.wanted))
        self.waits.set_visibility(not total)
        self.log.set_visibility(bool(total))


def _select(choices: dict[str, str], value: str, label: str) -> ui.select:
    return ui.select(choices, value=value if value in choices else "", label=label).props("dense outlined").classes("pick")


def _said(line: LogView) -> str:
    level = "" if line.level == "info" else f"{line.level.upper()} "
    return f"{line.at:%H:%M:%S} {line.task}  {level}{code.plain(line.line)}"


def _passes(line: LogView, wanted: Filter) -> bool:
    return _matches(line.service, line.level, wanted)


def _matches(service: str, level: str, wanted: Filter) -> bool:
    return wanted[0] in ("", service) and wanted[1] in ("", level)


def _waits_for(run: RunView) -> str:
    for removed in run.removed:
        if removed.what == "logs":
            return removed.told
    return "No line was logged." if run.terminal else "Waits for a worker's first line."
