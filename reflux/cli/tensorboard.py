"""`reflux run tensorboard`: a run's scalars as an event file, kept up to date while the run goes on, and TensorBoard on it."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from reflux import scalars
from reflux.cli import output
from reflux.cli.connection import connect, patiently, run_ids
from reflux.client import Client
from reflux.views import RunView

EVERY_SECONDS = 10.0
POINTS = 10_000  # of a series, as many as the API gives; a longer one is thinned
SUFFIX = ".reflux"

Scalar = tuple[str, float, int, datetime]  # name, value, step, when


def tensorboard(
    runs: Annotated[
        list[str], typer.Argument(help="Ids, as `reflux run list` shows them.", show_default=False, autocompletion=run_ids)
    ],
    to: Annotated[Path, typer.Option("--out", "-o", help="The folder; each run has one of its own in it.")] = Path("tensorboard"),
    port: Annotated[int, typer.Option(help="Where TensorBoard listens, on 127.0.0.1.", min=1, max=65535)] = 6006,
    serve: Annotated[bool, typer.Option(help="Start TensorBoard, until Ctrl-C; else write, and be done.")] = True,
) -> None:
    """Loss, rates, scores by epoch and costs of runs, in TensorBoard. Of runs that go on, what is new comes every 10 s."""
    if importlib.util.find_spec("tensorboard") is None:
        output.err("TensorBoard is not installed here.", "pip install tensorboard")
        raise typer.Exit(2)
    with connect() as client:
        scribes = [Scribe(client, client.run(run_id).id, to) for run_id in dict.fromkeys(runs)]
        live = [scribe for scribe in scribes if scribe.write()]
        points = sum(scribe.count for scribe in scribes)
        output.console.print(f"{points:,} points are in {output.plain(str(to))}", soft_wrap=True)
        if serve:
            _serve(client, to, port, live)


def _serve(client: Client, to: Path, port: int, live: list["Scribe"]) -> None:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(to), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command) as board:
        try:
            while board.poll() is None and live:
                time.sleep(EVERY_SECONDS)
                live = [scribe for scribe in live if patiently(client, scribe.write)]
            board.wait()
        except KeyboardInterrupt:
            board.terminate()
            return
    if board.returncode:
        output.err("TensorBoard has ended.", f"Is port {port} free? --port takes another.")
        raise typer.Exit(1)


class Scribe:
    """Writes one run's scalars into a folder of its own, each once. `count` are those written."""

    def __init__(self, client: Client, run_id: str, to: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.client, self.run_id, self.count = client, run_id, 0
        folder = to / run_id
        for earlier in folder.glob(f"*{SUFFIX}"):
            earlier.unlink()
        self.file: Any = EventFileWriter(str(folder), filename_suffix=SUFFIX)
        self.told: dict[str, datetime] = {}  # by series, the newest point
        self.epochs = 0

    def write(self) -> bool:
        """What is new; whether the run goes on."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        run = self.client.run(self.run_id)  # before its metrics: none of a run that is over is missed
        for name, value, step, at in [*self._told(run), *self._known(run)]:
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            self.file.add_event(Event(wall_time=at.timestamp(), step=step, summary=summary))
            self.count += 1
        self.file.flush()
        return not run.terminal

    def _told(self, run: RunView) -> Iterator[Scalar]:
        before = scalars.steps_before(run.epochs)
        for series in self.client.metrics(self.run_id, max_points=POINTS).data:
            last = self.told.get(series.name)
            for point in series.points:
                if point.value is not None and (last is None or point.at > last):
                    yield series.name, point.value, before.get(point.epoch, 0) + point.step, point.at
                    self.told[series.name] = point.at

    def _known(self, run: RunView) -> Iterator[Scalar]:
        now = run.ended_at or max(self.told.values(), default=run.created_at)
        for epoch in run.epochs[self.epochs :]:
            yield from ((name, value, epoch.epoch, now) for name, value in scalars.of_epoch(epoch).items())
        self.epochs = len(run.epochs)
        if run.terminal:
            last = scalars.of_usage("total", run.usage) | (scalars.of_comparison(run.comparison) if run.comparison else {})
            yield from ((name, value, run.epoch, now) for name, value in last.items())
