"""A run, live: a picture in a terminal, plain lines elsewhere. Looking at a run never touches it."""

import time
from functools import partial

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reflux.cli.connection import patiently
from reflux.cli.output import STAGES, console, duration, epochs_table, harmless, plain
from reflux.client import Client
from reflux.views import EventView, RunView

EVERY_SECONDS = 0.5
PLAIN_EVERY_SECONDS = 15.0
AWAY = "the API is away; the run goes on, and so will this"


def watch(client: Client, run_id: str, *, quiet: bool = False) -> RunView:
    """Show the run (`quiet`: wait) until it is over, or paused; the run as it is then."""
    if quiet:
        return _wait(client, run_id)
    return _live(client, run_id) if console.is_terminal else _plain(client, run_id)


def _wait(client: Client, run_id: str) -> RunView:
    run = client.run(run_id)
    while not _rests(run):
        time.sleep(EVERY_SECONDS)
        run = patiently(client, partial(client.run, run_id))
    return run


def _live(client: Client, run_id: str) -> RunView:
    run = client.run(run_id)
    with Live(_picture(run), console=console, refresh_per_second=4) as live:
        while not _rests(run):
            time.sleep(EVERY_SECONDS)
            run = patiently(client, partial(client.run, run_id), partial(_picture_away, live, run))
            live.update(_picture(run))
    return run


def _picture_away(live: Live, run: RunView) -> None:
    live.update(Group(_picture(run), Text(AWAY, style="yellow")))


def _plain(client: Client, run_id: str) -> RunView:
    """A line for each event that people care for, and now and then one with the ETA."""
    run, seen, told, last = client.run(run_id), 0, "", 0.0
    away = partial(console.print, AWAY)
    while True:
        for event in patiently(client, partial(client.events, run_id, after=seen, limit=1000), away).data:
            seen = event.seq
            line = sentence(event)
            if line:
                console.print(f"{event.at:%H:%M:%S}  {event.status:<12} {plain(line)}", soft_wrap=True)
                last = time.monotonic()
        if _rests(run) and seen >= run.last_event:
            return run
        doing = run.progress.doing
        if time.monotonic() - last > PLAIN_EVERY_SECONDS and doing != told:
            eta = f"ETA {duration(run.progress.eta_seconds)}"
            console.print(f"          {run.progress.percent:5.1f}%  {plain(doing)}  {eta}", soft_wrap=True)
            told, last = doing, time.monotonic()
        time.sleep(EVERY_SECONDS)
        run = patiently(client, partial(client.run, run_id), away)


def _rests(run: RunView) -> bool:
    return run.terminal or run.status == "paused"


def sentence(event: EventView) -> str:
    """An event as one line for people; empty for those that only machines care for."""
    b = event.body
    match event.type:
        case "run_created":
            return f"run accepted: {b['name']}"
        case "preflight_passed":
            return "every check passed" + (f", {len(b['warnings'])} warnings" if b["warnings"] else "")
        case "dataset_prepared" if not b["train_path"]:
            return f"{b['files']} files of code and inputs"
        case "dataset_prepared":
            sets = f"{b['practice']} practice, {b['dev']} dev, {b['test']} test prompts"
            return f"{b['files']} files read: {b['train']} training rows, {b['val']} for validation; {sets}"
        case "prompts_taught":
            return f"the teacher answered {b['answered']} prompts"
        case "adapter_trained":
            return (
                f"epoch trained: {b['steps']} steps over {b['rows']} rows, loss {b['train_loss']:.3f}, {duration(b['seconds'])}"
            )
        case "answers_generated":
            rate = f", {b['tokens'] / b['seconds']:.0f} tokens/s" if b["seconds"] else ""
            return f"{b['key'].split('-')[-1]} answered: {b['tokens']} tokens{rate}"
        case "chunk_scored":
            return f"scored {b['chunk']}: mean {b['overall'] / max(1, b['count']):.2f}, {b['poor']} of {b['count']} poor"
        case "corrections_judged":
            return f"corrections: {b['admitted']} admitted, {b['refused']} refused"
        case "corrections_reviewed":
            edited = f", {b['edited']} edited, to be scored" if b.get("edited") else ""
            return f"reviewed by {b['by']}: {b['admitted']} admitted, {b['refused']} refused{edited}"
        case "models_compared":
            c = b["comparison"]
            return f"base {c['base']['overall']:.2f}, trained {c['best']['overall']:.2f} on the test prompts"
        case "task_phase" if b["phase_status"] != "begun":
            return f"{b['phase']}: {b['phase_status']}, {duration(b['facts'].get('duration_seconds'))}"
        case "machine_provisioned":
            return f"the machine {b['resource_id']} works"
        case "spot_interruption":
            return f"{b['machine']} is taken back at {b['time']}"
        case "machine_state":
            return f"the machine {b['machine']} is {b['state']}"
        case "machine_lost":
            return f"machine {b['number']} was lost: {b['failure']['message']}"
        case "results_delivered":
            return "model, report and summary are stored"
        case "cleaned_up":
            return "cleaned up"
        case "task_retried":
            return f"{b['key']} failed ({b['failure']['code']}), tried again in {b['wait_seconds']:g} s"
        case "task_failed":
            return f"{b['key']} failed: {b['failure']['message']}"
        case "time_limit_reached":
            return f"the time limit of {b.get('stage') or 'the run'} is reached"
        case "abort_requested" | "pause_requested" | "resume_requested" | "task_handed_back":
            return event.type.replace("_", " ")
    return ""


def _picture(run: RunView) -> RenderableType:
    head = Text.assemble((run.id, "bold"), "  ", (run.status, "bold"), f"  {_epoch(run)}", no_wrap=True, overflow="ellipsis")
    if run.health != "ok":
        head.append(f"  {run.health}", style="yellow")
    head.append(f"  {harmless(run.name)}")
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=100, completed=run.progress.percent, width=40),
        f"{run.progress.percent:.0f}%",
        f"ETA {duration(run.progress.eta_seconds)}",
    )
    parts: list[RenderableType] = [head, _stages(run), bar, Text(harmless(run.progress.doing) or " ", style="dim")]
    if run.epochs:
        parts += ["", epochs_table(run.epochs, run.best_epoch)]
    return Group(*parts)


def _epoch(run: RunView) -> str:
    return f"epoch {run.epoch}/{run.max_epochs}" if run.epoch else ""


def _stages(run: RunView) -> Text:
    """The road, with what is behind, the stage at hand, and what is ahead."""
    at = STAGES.index(run.stage)
    road = Text()
    for index, stage in enumerate(STAGES[1:10], start=1):
        if stage == "provisioning" and run.stage != "provisioning":
            continue
        style = "green" if index < at else "bold reverse" if index == at else "dim"
        road.append(stage.replace("_", " "), style=style)
        road.append(" ")
    return road
