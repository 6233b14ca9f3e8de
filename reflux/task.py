"""One attempt at one command, in a worker's hands: what to do, where to write, and how to say how it goes."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reflux import artifacts
from reflux.artifacts import Artifacts
from reflux.commands import Chunk, Command
from reflux.errors import Stopped
from reflux.protocol import Share
from reflux.spec import RunSpec


@dataclass(eq=False)
class Task:
    """A handler works with this alone; it needs no server, so a handler can be called by hand.

    What the handler reports is kept until the next beat takes it away (`drain`). `stop` and `share` are set by the beat's answer.
    `traceparent` is for spans of the handler's own (see traces.py).
    """

    run_id: str
    command: Command
    spec: RunSpec
    artifacts: Artifacts
    task_id: int = 0
    attempt: int = 1
    workers: Callable[[], list[dict[str, Any]]] = list
    stop: str | None = None
    kill: bool = False
    share: Share = field(default_factory=Share)
    machine_key: str | None = field(default=None, repr=False)
    traceparent: str | None = None
    news: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _progress: dict[str, Any] | None = None
    _metrics: list[dict[str, Any]] = field(default_factory=list)
    _lines: list[dict[str, Any]] = field(default_factory=list)
    _chunks: list[Chunk] = field(default_factory=list)
    _phases: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> str:
        """This attempt's own folder in the artifact store."""
        return artifacts.attempt_folder(self.run_id, self.command.key, self.attempt)

    @property
    def pieces(self) -> str:
        """The folder of finished pieces that all attempts at this command share."""
        return artifacts.pieces_folder(self.run_id, self.command.key)

    def progress(self, done: float, total: float, note: str = "") -> None:
        """`done` of `total`, in the unit that `note` names. Doubles as the sign of life for the stall watch."""
        with self._lock:
            self._progress = {"done": done, "total": total, "note": note}

    def metrics(self, step: int, **values: float) -> None:
        """One point of each named series (loss, learning_rate, tokens_per_second …)."""
        with self._lock:
            self._metrics.append({"step": step, "values": values})

    def log(self, line: str, level: str = "info") -> None:
        with self._lock:
            self._lines.append({"level": level, "line": line[:2000]})

    def chunk_done(self, chunk: Chunk) -> None:
        """A piece is stored; whoever waits for it hears of it at once."""
        with self._lock:
            self._chunks.append(chunk)
        self.news.set()

    def phase(self, name: str, status: str, **facts: Any) -> None:
        """A part of a long task has `begun`, or ended as `pass`, `fail` or `stopped`; it goes into the run's history at once."""
        with self._lock:
            self._phases.append({"name": name, "status": status, "facts": facts})
        self.news.set()

    def check(self) -> None:
        """Call at every safe point: raises Stopped once the work is to end."""
        if self.stop:
            raise Stopped(self.stop)

    def drain(self) -> dict[str, Any]:
        """Everything reported since the last call, as the body of a beat."""
        with self._lock:
            report = {
                "progress": self._progress,
                "metrics": self._metrics,
                "logs": self._lines,
                "chunks": [chunk.model_dump(mode="json") for chunk in self._chunks],
                "phases": self._phases,
            }
            self._progress, self._metrics, self._lines, self._chunks, self._phases = None, [], [], [], []
        self.news.clear()
        return report

    def put_back(self, report: dict[str, Any]) -> None:
        """Keep a report that no beat could deliver."""
        with self._lock:
            self._progress = self._progress or report["progress"]
            self._metrics = report["metrics"] + self._metrics
            self._lines = report["logs"] + self._lines
            self._chunks = [Chunk.model_validate(c) for c in report["chunks"]] + self._chunks
            self._phases = report["phases"] + self._phases
