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
from reflux.commands import Command, Teach
from reflux.records import Prompt
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task

EXAMPLES = Path(__file__).parents[1] / "examples" / "automotive"
COUNT = 40  # prompts that the recorded teacher of the tests has two answers to


def spec(**sections: Any) -> RunSpec:
    return RunSpec.model_validate({"data": {"sources": [{"uri": "file:///nowhere"}]}} | sections)


def task(folder: Path, command: Command, spec: RunSpec, attempt: int = 1, **more: Any) -> Task:
    return Task("r1", command, spec, Artifacts(f"file://{folder}/store"), attempt=attempt, **more)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"file://{path}"


def prompt_text(i: int) -> str:
    return f"Write the C function number {i:03d}, please."


def answer_text(i: int, variant: int = 0) -> str:
    return f"```c\nint f_{i:03d}(void)\n{{\n    return {variant};\n}}\n```"


def asking(url: str, **teacher: Any) -> RunSpec:
    """A spec whose teacher is the stand-in at `url`."""
    fields = {"provider": "recorded", "endpoint_url": url, "backoff_seconds": 0.02, "timeout_seconds": 5}
    return spec(teacher=fields | teacher)


def teach_task(folder: Path, run_spec: RunSpec, attempt: int = 1, count: int = COUNT, stop: int = COUNT) -> Task:
    """To teach the prompts below `stop` of `count` practice prompts."""
    command = Teach(stage=Stage.TEACHING, shard=0, start=0, stop=stop, prompts_path="prompts.jsonl")
    hand = task(folder, command, run_spec, attempt)
    rows = [Prompt(id=f"p{i:03d}", text=prompt_text(i), set="practice", family=f"f{i}") for i in range(count)]
    hand.artifacts.write_rows("prompts.jsonl", [*rows, Prompt(id="t", text="Never asked", set="test", family="t")])
    return hand


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
