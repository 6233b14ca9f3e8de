"""What a teacher_worker does for a run, by kind of command."""

from collections.abc import Callable
from importlib import metadata
from typing import Any

from reflux.events import Event
from reflux.task import Task
from services.teacher_worker.clean_up import clean_up
from services.teacher_worker.cloud.provision import provision
from services.teacher_worker.dataset import prepare
from services.teacher_worker.deliver import deliver
from services.teacher_worker.preflight import preflight
from services.teacher_worker.teaching import correct, teach

HANDLERS: dict[str, Callable[[Task], Event]] = {
    "preflight": preflight,
    "provision": provision,
    "prepare": prepare,
    "teach": teach,
    "correct": correct,
    "deliver": deliver,
    "clean_up": clean_up,
}


def capabilities() -> dict[str, Any]:
    """The versions of the libraries that decide what a dataset looks like, and how the teacher is asked."""
    names = ("boto3", "tree-sitter", "tree-sitter-c", "tree-sitter-cpp", "datasketch", "detect-secrets")
    return {name: metadata.version(name) for name in names}
