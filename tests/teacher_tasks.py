"""Tasks of the teacher_worker, built by hand, and a recorded teacher that really runs."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from reflux.artifacts import Artifacts
from reflux.commands import Command
from reflux.spec import RunSpec
from reflux.task import Task

EXAMPLES = Path(__file__).parents[1] / "examples" / "automotive"


def spec(**sections: Any) -> RunSpec:
    return RunSpec.model_validate({"data": {"sources": [{"uri": "file:///nowhere"}]}} | sections)


def task(folder: Path, command: Command, spec: RunSpec, attempt: int = 1, **more: Any) -> Task:
    return Task("r1", command, spec, Artifacts(f"file://{folder}/store"), attempt=attempt, **more)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"file://{path}"


class StandIn:
    """The recorded teacher's process, over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def behave(self, **behaviour: Any) -> None:
        httpx.post(f"{self.url}/_control", json=behaviour).raise_for_status()

    def forget(self) -> None:
        httpx.delete(f"{self.url}/_log").raise_for_status()

    def calls(self, status: int | None = None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = httpx.get(f"{self.url}/_log").json()["calls"]
        return [call for call in calls if status is None or call["status"] == status]


@contextmanager
def stand_in(*answers: Path) -> Iterator[StandIn]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "reflux.local.recorded_teacher", "--port", str(port)]
    command += [part for path in answers for part in ("--answers", str(path))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        first = process.stderr.readline()  # it says so once it listens
        assert "recorded teacher:" in first, first
        yield StandIn(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(10)
        process.stderr.close()
