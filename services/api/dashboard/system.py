"""`/system`: the servers that Reflux stands on, what waits for a worker, and what each worker does."""

from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi.concurrency import run_in_threadpool
from nicegui import ui
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from reflux.commands import kind_of
from reflux.queues import ROUTES, service
from reflux.views import WorkerView
from services.api.dashboard import live, shell, words
from services.api.dashboard.words import Look
from services.api.routes.tasks import worker_views
from services.api.tables import RunRow

LOOK_SECONDS = 10.0  # nobody rings when a server or a worker goes silent
SERVERS = {"database": "PostgreSQL", "broker": "Task queue", "artifacts": "Artifact store"}
AWAY = {
    "database": "Nothing can be shown or done until it is back; nothing is lost.",
    "broker": "Workers hear of no task until it is back. What they have in hand goes on.",
    "artifacts": "Workers can't read or write until it is back; they try again.",
}
STATES = {"ok": Look("Answers", "good", "check_circle"), "away": Look("No answer", "bad", "error")}
ALIVE, SILENT = Look("Alive", "good", "check_circle"), Look("Silent", "off", "power_off")
MEMORY = ("gpu_memory_gb", "memory_gb")
WAITING = """
    select kind, count(*) as waiting, max(extract(epoch from now() - due_at))::float as oldest
    from tasks where status = 'ready' and due_at <= now() group by kind
"""
MEMORY_GB = """
    select w.name, (w.capabilities ->> 'gpu_memory_gb')::float as there,
           (select m.value from tasks t join metrics m on m.run_id = t.run_id and m.name = 'memory_gb'
            where t.worker = w.name and t.status = 'claimed' and w.service = 'gpu_trainer' order by m.id desc limit 1) as used
    from workers w
"""


@dataclass(frozen=True)
class Queue:
    """Tasks that wait for a worker, and for how many seconds the oldest has."""

    name: str
    waiting: int = 0
    oldest: float = 0.0


@dataclass(frozen=True)
class Seen:
    queues: list[Queue]
    workers: list[WorkerView]
    memory: dict[str, tuple[float | None, float | None]]  # by worker: there is, and in use, in GB
    names: dict[str, str]  # of the runs that are worked for


async def show() -> None:
    with shell.page("System", here="system"):
        shell.heading("System", 1)
        with ui.element("section").classes("columns"):
            servers, queues = (ui.element("div").classes("card") for _ in range(2))
        workers = ui.element("section").classes("card")

        async def look() -> None:
            told = await run_in_threadpool(shell.state().readiness.look)
            seen = await shell.read(_seen)
            for place in (servers, queues, workers):
                place.clear()
            with servers:
                _servers(told)
            with queues:
                _queues(seen)
            with workers:
                _workers(seen)

        live.follow_all(look)
        await look()
        ui.timer(LOOK_SECONDS, look, immediate=False)


def _seen(session: Session) -> Seen:
    queues = {name: Queue(name) for name in (*sorted(set(map(service, ROUTES))), "person")}
    for kind, count, oldest in session.execute(text(WAITING)):
        name = service(kind) if kind in ROUTES else "person"
        known = queues[name]
        queues[name] = Queue(name, known.waiting + count, max(known.oldest, oldest))
    memory = {row.name: (row.there, row.used) for row in session.execute(text(MEMORY_GB))}
    workers = sorted(worker_views(session, shell.state().settings), key=lambda w: (not w.alive, w.service, w.name))
    held = {task.split(" ")[0] for worker in workers for task in worker.doing}
    names = session.execute(select(RunRow.id, RunRow.name).where(RunRow.id.in_(held)))
    return Seen(list(queues.values()), workers, memory, {row.id: row.name for row in names})


def _servers(told: dict[str, str]) -> None:
    shell.heading("Servers")
    for name, word in SERVERS.items():
        with ui.element("div").classes("bar"):
            shell.text(word)
            shell.chip(STATES[told[name]]).classes("end")
        if told[name] != "ok":
            shell.text(AWAY[name], "p", "small quiet")


def _queues(seen: Seen) -> None:
    shell.heading("Waiting for a worker")
    for queue in seen.queues:
        with ui.element("div").classes("bar"):
            shell.text("You, to review" if queue.name == "person" else words.WORKERS.get(queue.name, queue.name))
            told = f"{queue.waiting} waiting, the oldest for {words.span(queue.oldest)}" if queue.waiting else "nothing waits"
            shell.text(told, classes="end number" if queue.waiting else "end quiet")


def _workers(seen: Seen) -> None:
    shell.heading("Workers")
    if not seen.workers:
        shell.text("No worker has ever registered here. `reflux up` starts one of each.", "p", "empty")
        return
    with ui.element("table").classes("grid plain"):
        with ui.element("thead"), ui.element("tr"):
            for column in ("Worker", "State", "Does", "Memory", "Machine"):
                shell.text(column, "th").props("scope=col")
        with ui.element("tbody"):
            for worker in seen.workers:
                with ui.element("tr"):
                    _worker(worker, seen.names, *seen.memory.get(worker.name, (None, None)))


def _worker(worker: WorkerView, names: dict[str, str], there: float | None, used: float | None) -> None:
    now = datetime.now(UTC)
    with ui.element("td").classes("wide"):
        shell.text(worker.name, classes="strong")
        shell.text(words.WORKERS.get(worker.service, worker.service), "div", "small quiet")
    with ui.element("td"):
        shell.chip(ALIVE if worker.alive else SILENT)
        shell.text(f"heard of {words.ago(worker.seen_at, now)}", "div", "small quiet number")
    with ui.element("td").props("data-label=Does"):
        _doing(worker, names)
    with ui.element("td").props("data-label=Memory"):
        _memory(there, used)
    with ui.element("td").props("data-label=Machine").classes("small quiet"):
        told = [f"{name.replace('_', ' ')} {value}" for name, value in worker.capabilities.items() if _telling(name, value)]
        shell.text(", ".join(told) or "—", classes="" if told else "nothing")


def _doing(worker: WorkerView, names: dict[str, str]) -> None:
    if not worker.doing:
        shell.text("waits for a task" if worker.alive else "—", classes="quiet" if worker.alive else "nothing")
    for held in worker.doing:
        run_id, _, key = held.partition(" ")
        with ui.element("div"):
            shell.text(f"{words.TASKS.get(kind_of(key), key)}: ")
            ui.link(names.get(run_id, run_id), f"/runs/{run_id}").props["title"] = key


def _memory(there: float | None, used: float | None) -> None:
    if there is None:
        shell.text("—", classes="nothing")
        return
    share = min(100.0, 100 * (used or 0.0) / there)
    meter = ui.html(f'<span style="width:{share:.0f}%"></span>', sanitize=False, tag="div").classes("meter")
    meter.props(f'role=progressbar aria-valuemin=0 aria-valuemax=100 aria-valuenow={share:.0f} aria-label="GPU memory in use"')
    shell.text(f"{used or 0:.1f} of {there:.1f} GB" if used else f"{there:.1f} GB, none in use", "div", "small quiet number")


def _telling(name: str, value: object) -> bool:
    return name not in MEMORY and bool(value) and isinstance(value, str | int | float) and not isinstance(value, bool)
