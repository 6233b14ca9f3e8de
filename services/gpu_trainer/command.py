"""A user's command while it runs: its lines, its signs of life, and its end, held by leash.py."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from reflux import leaks
from reflux.task import Task

LEASH = Path(__file__).with_name("leash.py")
TOLD = "::reflux "  # a line that begins so holds JSON: see Told
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # no database takes a NUL; others steer terminals
LINE_BYTES = 64_000
LINES_AT_ONCE, LINES_A_SECOND = 500.0, 20.0  # that go to the run's log; the file has all
LOG_BYTES = 100_000_000
LIFE_SHARE = 0.05  # of one CPU, for a second or longer


Fact = str | bool | int | FiniteFloat


class Told(BaseModel):
    """What a command says of itself: `progress` is done and total; `metrics` are one point of each series, at `step`.

    `facts` stand with its phase in training.json, such as models_trained.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    progress: tuple[float, float] | None = None
    unit: str = Field("", max_length=100)
    step: int = 0
    metrics: dict[str, float] = Field(default_factory=dict, max_length=100)
    facts: dict[str, Fact | list[Fact]] = Field(default_factory=dict, max_length=20)


@dataclass
class Lines:
    """Where a command's output goes: to the file whole, to the run's log at a rate that Postgres bears."""

    task: Task
    file: IO[str]
    tell: Callable[[float, float, str], None]
    written: int = 0
    left_out: int = 0
    allowed: float = LINES_AT_ONCE
    at: float = field(default_factory=time.monotonic)
    facts: dict[str, Any] = field(default_factory=dict)

    def take(self, raw: bytes) -> None:
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n").rpartition("\r")[2]  # what a progress bar wrote last
        line = CONTROLS.sub("\N{REPLACEMENT CHARACTER}", line)
        if line.startswith(TOLD) and self._told(line.removeprefix(TOLD)):
            return
        line = leaks.redacted(line)
        if self.written < LOG_BYTES:
            self.written += self.file.write(line + "\n")
            if self.written >= LOG_BYTES:
                self.file.write("[the log is full; what follows is not kept]\n")
        now = time.monotonic()
        self.allowed = min(LINES_AT_ONCE, self.allowed + (now - self.at) * LINES_A_SECOND)
        self.at = now
        if self.allowed < 1:
            self.left_out += 1
            return
        self.allowed -= 1
        self.say_what_was_left_out()
        self.task.log(line)

    def say_what_was_left_out(self) -> None:
        if self.left_out:
            self.task.log(f"[{self.left_out} lines are only in the log file]")
            self.left_out = 0

    def _told(self, text: str) -> bool:
        if "\\u0000" in text:
            return False
        try:
            told = Told.model_validate_json(text)
        except ValidationError:
            return False  # a line like any other
        if told.progress:
            self.tell(*told.progress, told.unit)
        if told.metrics:
            self.task.metrics(told.step, **told.metrics)
        self.facts |= told.facts
        return True


class Running:
    """The command, from its start until everything that it started is gone, at the latest when the block is left."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], after: list[str], lines: Lines) -> None:
        """OSError if the leash itself can't be started; a command that can't is an `error` of its end."""
        status, told = os.pipe()
        order = json.dumps({"command": command, "after": after, "scratch": str(folder.parent)})
        try:
            self.leash = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), str(told), order],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                cwd=folder, env=environment, pass_fds=(told,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(told)
        self.status = os.fdopen(status, "rb")
        self.lines = lines
        self.spoken_at = time.monotonic()
        self.worked, self.looked_at = 0.0, self.spoken_at
        self.going = True
        self.said: queue.Queue[bytes | None] = queue.Queue(maxsize=100)
        self.reader = threading.Thread(target=self._read, name="job-lines", daemon=True)
        self.reader.start()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        while self.going and self.look(1.0):
            pass
        self.leash.wait()

    def terminate(self) -> None:
        self._order("term")

    def kill(self) -> None:
        self._order("kill")

    def look(self, seconds: float) -> bool:
        """Take what it says for so long; whether it goes on. Its output ends when everything that it started is gone."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                line = self.said.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                self.going = False
                return False
            self.spoken_at = time.monotonic()
            self.lines.take(line)
        return True

    def end(self) -> dict[str, Any]:
        """`returncode` (negative: of a signal) or `error`; empty if the leash itself was killed."""
        self.lines.say_what_was_left_out()
        with self.leash, self.status:  # which closes their pipes
            told = self.status.read()
        return dict(json.loads(told)) if told else {}

    def silent_seconds(self) -> float:
        """Since it last said a line, or was at work on a CPU."""
        passed = time.monotonic() - self.looked_at
        if passed >= 1:
            worked = cpu_seconds(self.leash.pid)
            if abs(worked - self.worked) > LIFE_SHARE * passed:  # less: some of what it had started is over
                self.spoken_at = time.monotonic()
            self.worked, self.looked_at = worked, time.monotonic()
        return time.monotonic() - self.spoken_at

    def _order(self, word: str) -> None:
        assert self.leash.stdin
        try:
            self.leash.stdin.write(f"{word}\n".encode())
            self.leash.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it is over

    def _read(self) -> None:
        assert self.leash.stdout
        while line := self.leash.stdout.readline(LINE_BYTES):
            self.said.put(line)
        self.said.put(None)


def manner(end: dict[str, Any]) -> str:
    """How a command ended, in words."""
    if "error" in end:
        return f"The command could not be started: {end['error']}"
    code = end.get("returncode")
    if code is None:
        return "The command and what held it were killed from outside"
    if code < 0:
        number = signal.Signals(-code) if -code in set(signal.Signals) else -code
        named = number.name if isinstance(number, signal.Signals) else f"signal {number}"
        said = signal.strsignal(-code) or "unknown"
        return f"The command was ended by {named} ({said.lower()})"
    return f"The command ended with exit code {code}"


def hint(end: dict[str, Any]) -> str:
    match end.get("returncode"):
        case -9 | 137:
            return "As a rule the machine ran out of memory. Use smaller data, or a machine with more."
        case -11 | -6 | -7 | 139 | 134:
            return "A library crashed. Look at the last lines of the log, and at the versions of what it imports."
        case 126:
            return "The program is there, but may not be executed."
        case 127:
            return "The program was not found. Name it by its full path, or put it into job.code_uri."
    return "Look for the program in job.code_uri, or name another one in job.command." if "error" in end else ""


def cpu_seconds(root: int) -> float:
    """What the process `root` and all below it have worked, as far as they still live."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue  # gone since
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(int(n) for n in fields[11:15])
    return sum(ticks[pid] for pid in ticks if _is_below(pid, root, parents)) / os.sysconf("SC_CLK_TCK")


def _is_below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid and pid != root:
        pid = parents.get(pid, 0)
    return pid == root
