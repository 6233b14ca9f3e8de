"""`reflux run logs`: what the workers said about a run."""

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal

import typer
from rich.text import Text

from reflux.cli import output
from reflux.cli.connection import connect, patiently
from reflux.cli.run_id import RunId
from reflux.client import Client
from reflux.views import LogView

LEVELS = ("info", "warning", "error")
STYLES = {"warning": "yellow", "error": "red"}
PAGE = 1000
EVERY_SECONDS = 1.0


def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, until the run is over.")] = False,
    level: Annotated[Literal["info", "warning", "error"], typer.Option(help="At least so grave.")] = "info",
    service: Annotated[str | None, typer.Option(help="Only of this one, such as gpu_trainer.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """What the workers said about a run, the oldest first. Ctrl-C leaves the run alone."""
    graver = LEVELS[LEVELS.index(level) :]

    def counts(line: LogView) -> bool:
        return line.level in graver or line.level not in LEVELS

    after = 0
    with connect() as client:
        if last or not follow:
            said = filter(counts, _all(client, run_id, service, after))
            for line in deque(said, last) if last else said:
                after = line.id
                _tell(line, json)
        if follow:
            for line in filter(counts, _following(client, run_id, service, after)):
                _tell(line, json)


def _all(client: Client, run_id: str, service: str | None, after: int) -> Iterator[LogView]:
    while True:
        page = client.logs(run_id, service=service, after=after, limit=PAGE)
        yield from page.data
        if not page.has_more:
            return
        after = page.data[-1].id


def _following(client: Client, run_id: str, service: str | None, after: int) -> Iterator[LogView]:
    """Each line once, over any outage of the API, to the last one of a run that is over."""
    over = False
    while not over:
        over = patiently(client, partial(client.run, run_id)).terminal
        for line in patiently(client, partial(_new, client, run_id, service, after)):
            after = line.id
            yield line
        if not over:
            time.sleep(EVERY_SECONDS)


def _new(client: Client, run_id: str, service: str | None, after: int) -> list[LogView]:
    return list(_all(client, run_id, service, after))


def _tell(line: LogView, json: bool) -> None:
    if json:
        typer.echo(line.model_dump_json())
        return
    who = f"{line.service} {line.task}".strip()
    text = Text.assemble(
        (f"{line.at:%H:%M:%S}  ", "dim"), (f"{line.level:<7}  ", STYLES.get(line.level, "")), (f"{who}  ", "dim")
    )
    output.console.print(text.append(output.harmless(line.line), STYLES.get(line.level, "")), soft_wrap=True)
