"""The parent's half of the GPU worker: hands commands to the child process that holds the models, and watches over it.

The parent never imports torch. It beats while the child computes, and can cut it off: whatever hangs, hangs there.
"""

import json
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from reflux.answering import ErrandHandler, Pieces
from reflux.errands import CompleteErrand, Errand, Written
from reflux.errors import Retriable, Stopped
from reflux.events import Event
from reflux.task import Task
from reflux.worker import SHUTDOWN
from services.gpu_trainer import job, surroundings
from services.gpu_trainer.pipe import described, error, outcome, pass_on
from services.gpu_trainer.question import Question

POLL_SECONDS = 0.1
HAND_BACK_SECONDS = 25.0  # from SIGTERM: who sent it may kill after 30
ENVIRONMENT = {
    # GPU memory in segments that grow: batches of unlike lengths fragment it less.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    # A thread that waits spins a short while, then sleeps. Never spinning makes training on two idle cores 1.8 times slower;
    # spinning long makes it many times slower where the evaluator's compilers want the same cores.
    "GOMP_SPINCOUNT": "20000",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

_one_at_a_time = threading.Lock()
_starting = threading.Lock()
_child: "_Child | None" = None


def carry_out(task: Task) -> Event:
    """Let the child do it. Raises what the child raised; Retriable when it died, or stood still for limits.stall_seconds.

    A child that can't be heard when the worker has to go, as it loads a student, is killed; another attempt goes on.
    """
    with _one_at_a_time:
        child = _living_child()
        child.say({"do": described(task)})
        told_at = None
        alive_at = time.monotonic()
        while True:
            message = child.hear(POLL_SECONDS)
            if message is not None and "report" not in message:
                return outcome(message)
            if message is not None:
                pass_on(task, message["report"])
                alive_at = time.monotonic()
            if task.stop and told_at is None:
                child.say({"stop": task.stop})
                told_at = time.monotonic()
            deaf = told_at is not None and time.monotonic() - told_at > HAND_BACK_SECONDS
            if task.kill or (task.stop == SHUTDOWN and deaf):
                child.kill()
                raise Stopped(task.stop or "killed")
            seconds = time.monotonic() - alive_at
            if seconds > task.spec.limits.stall_seconds:
                child.kill()
                raise Retriable("stalled", f"{task.command.kind} made no progress for {seconds:.0f} s; its process was killed.")


def run_command(task: Task) -> Event:
    """A user's own command, on a GPU whose memory no student of ours holds."""
    with _one_at_a_time:
        if _child is not None and _child.alive:
            _child.kill()
        return job.run_job(task)


HANDLERS: dict[str, Callable[[Task], Event]] = {
    **dict.fromkeys(("train", "generate", "export_model"), carry_out),
    "run_job": run_command,
}


def infer(question: Question) -> Pieces:
    """The answer to a question, in pieces as they are written, with "" while there are none. Leaving off ends it.

    It is answered before a waiting command, between two chunks of a Generate, and after a Train. Raises what the child raised;
    Retriable when it died.
    """
    child = _living_child()
    name, pieces = child.ask(question)
    try:
        while True:
            try:
                message = pieces.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield ""
                continue
            child.check(message)
            if "piece" not in message:
                break
            yield message["piece"]
    finally:
        child.give_up(name)
    if "failure" in message:
        raise error(message["failure"])
    return Written.model_validate(message["written"])


def complete(errand: Errand, artifacts: str) -> Pieces:
    """A person's question."""
    order = errand.order
    assert isinstance(order, CompleteErrand)
    assert errand.run_id is not None
    assert errand.spec is not None
    *before, question = order.turns
    return infer(
        Question(
            run_id=errand.run_id,
            spec=errand.spec,
            artifacts=artifacts,
            before=tuple(before),
            text=question.content,
            adapter_path=order.adapter_path,
            sample=order.sample,
        )
    )


ERRANDS: dict[str, ErrandHandler] = {"complete": complete}


@cache
def capabilities() -> dict[str, Any]:
    """What this machine can do, looked up once by a process of its own: see probe.py."""
    command = [sys.executable, "-m", "services.gpu_trainer.probe"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found | surroundings.capabilities()


def _environment() -> dict[str, str]:
    """One GPU, as TRL refuses more in one process; a training of several processes (group.py) has all that may be seen."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    one = "0" if gpus is None else gpus.split(",")[0]
    return ENVIRONMENT | os.environ | {"CUDA_VISIBLE_DEVICES": one} | ({} if gpus is None else {"REFLUX_VISIBLE_GPUS": gpus})


def _living_child() -> "_Child":
    global _child  # noqa: PLW0603 (one child a process, and it outlives every task)
    with _starting:
        if _child is None or not _child.alive:
            _child = _Child()
        return _child


class _Child:
    """One child process, and the thread that starts it and hears it.

    The kernel's "parent died" signal comes when the *thread* that started a process ends. So that thread lives as long.
    """

    def __init__(self) -> None:
        self.heard: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answers: dict[str, queue.Queue[dict[str, Any]]] = {}
        self.writing = threading.Lock()
        self.alive = True
        started: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        threading.Thread(target=self._hear_all, args=(started,), daemon=True).start()
        self.process = started.get()

    def say(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        try:
            with self.writing:
                self.process.stdin.write(json.dumps(message) + "\n")
                self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it is dead, or was just found dead and its pipes closed; `hear` says so

    def ask(self, question: Question) -> "tuple[str, queue.Queue[dict[str, Any]]]":
        """The question's name, and where the pieces of its answer come."""
        name = secrets.token_hex(8)
        pieces: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answers[name] = pieces
        self.say({"ask": question.model_dump(mode="json"), "id": name})
        if not self.alive:
            pieces.put({"died": self.process.returncode})
        return name, pieces

    def give_up(self, name: str) -> None:
        self.answers.pop(name)
        self.say({"give_up": name})

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """Its next message, or None. Retriable once it is dead and everything it said has been heard."""
        try:
            message = self.heard.get(timeout=seconds)
        except queue.Empty:
            return None
        self.check(message)
        return message

    def check(self, message: dict[str, Any]) -> None:
        if "died" in message:
            raise Retriable("worker_lost", f"The training process died ({_manner(message['died'])}).")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.alive = False

    def _hear_all(self, started: "queue.Queue[subprocess.Popen[str]]") -> None:
        command = [sys.executable, "-m", "services.gpu_trainer.child"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment())
        started.put(process)
        assert process.stdout
        with process:
            for line in process.stdout:
                if line.endswith("\n"):  # else it was killed while it wrote
                    self._hear(json.loads(line))
        self.alive = False
        for heard in (self.heard, *list(self.answers.values())):
            heard.put({"died": process.returncode})

    def _hear(self, message: dict[str, Any]) -> None:
        if "to" not in message:
            self.heard.put(message)
        elif asker := self.answers.get(message["to"]):
            asker.put(message)


def _manner(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    return f"signal {-returncode}" + (", as when the machine runs out of memory" if returncode == -9 else "")
