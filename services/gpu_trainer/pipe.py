"""What goes between a process that computes and the one that watches over it: a task as JSON, its reports, and how it ended."""

from typing import Any

from reflux.artifacts import Artifacts
from reflux.commands import Chunk, CommandAdapter
from reflux.errors import ErrorClass, Failure, RefluxError, Retriable, Stopped, Terminal
from reflux.events import Event, EventAdapter
from reflux.spec import RunSpec
from reflux.task import Task


def described(task: Task) -> dict[str, Any]:
    """A task as JSON; `received` makes it again on the other side."""
    return {
        "run_id": task.run_id,
        "command": task.command.model_dump(mode="json"),
        "spec": task.spec.model_dump(mode="json"),
        "artifacts": task.artifacts.url,
        "task_id": task.task_id,
        "attempt": task.attempt,
        "traceparent": task.traceparent,
    }


def received(description: dict[str, Any]) -> Task:
    return Task(
        run_id=description["run_id"],
        command=CommandAdapter.validate_python(description["command"]),
        spec=RunSpec.model_validate(description["spec"]),
        artifacts=Artifacts(description["artifacts"]),
        task_id=description["task_id"],
        attempt=description["attempt"],
        traceparent=description["traceparent"],
    )


def pass_on(task: Task, report: dict[str, Any]) -> None:
    """Let `task` report what its double on the other side did."""
    if report["progress"]:
        task.progress(**report["progress"])
    for point in report["metrics"]:
        task.metrics(point["step"], **point["values"])
    for line in report["logs"]:
        task.log(line["line"], line["level"])
    for chunk in report["chunks"]:
        task.chunk_done(Chunk.model_validate(chunk))


def outcome(message: dict[str, Any]) -> Event:
    """The event that ended the work. Raises what was raised on the other side."""
    if "event" in message:
        return EventAdapter.validate_python(message["event"])
    if "stopped" in message:
        raise Stopped(message["stopped"])
    raise error(message["failure"])


def error(described: dict[str, Any]) -> RefluxError:
    failed = Failure.model_validate(described)
    kind = Terminal if failed.error_class == ErrorClass.TERMINAL else Retriable
    return kind(failed.code, failed.message, failed.hint)
