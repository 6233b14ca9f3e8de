"""The process that holds the models. Its parent (tasks.py) writes to its standard input and reads its standard output.

    in   {"do": {run_id, command, spec, artifacts, task_id, attempt, traceparent}}   {"stop": why}
    out  {"report": a beat's body}*, then one of  {"event": …}  {"failure": …}  {"stopped": why}

    in   {"ask": a Question, "id": …}   {"give_up": id}
    out  {"to": id, "piece": text}*, then one of  {"to": id, "written": …}  {"to": id, "failure": …}  {"to": id, "given_up": true}

One JSON object a line. It ends with its parent, however that ends: by the kernel's signal, and by the end of its input.
"""

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from reflux import traces
from reflux.errands import Written
from reflux.errors import Failure, RefluxError, Stopped, unforeseen
from reflux.events import Fact
from reflux.task import Task
from services.gpu_trainer.pipe import received
from services.gpu_trainer.question import Asked, Question

REPORT_SECONDS = 0.5
PR_SET_PDEATHSIG = 1

Say = Callable[[dict[str, Any]], None]
Handler = Callable[[Task, Any], Fact]


def main() -> None:
    # Only the parent decides when this process ends: signals to the whole group are for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    traces.set_up("gpu_trainer")
    # What libraries print must not get between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    child = Child(out)
    threading.Thread(target=child.listen, daemon=True).start()
    child.work()


class Child:
    """The main thread works; one thread listens for stops and questions; during a task, one passes its reports on."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.orders: queue.Queue[Task | None] = queue.Queue()  # None: there is a question
        self.questions: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self.asked: dict[str, Asked] = {}
        self.lock = threading.Lock()
        self.latest: Task | None = None

    def listen(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "do" in message:
                self.latest = received(message["do"])
                self.orders.put(self.latest)
            elif "ask" in message:
                self._ask(message["id"], Question.model_validate(message["ask"]))
            elif "give_up" in message:
                if asked := self.asked.get(message["give_up"]):
                    asked.given_up = True
            elif self.latest:
                self.latest.stop = message["stop"]
        os._exit(0)

    def _ask(self, name: str, question: Question) -> None:
        def say(piece: str) -> None:
            self._say({"to": name, "piece": piece})

        def end(how: Written | Failure | None) -> None:
            self.asked.pop(name)
            kind = "written" if isinstance(how, Written) else "failure"
            self._say({"to": name} | ({kind: how.model_dump(mode="json")} if how else {"given_up": True}))

        self.asked[name] = Asked(question, say, end)
        self.questions.put(self.asked[name])
        self.orders.put(None)

    def work(self) -> None:
        from services.gpu_trainer.infer import answer_waiting
        from services.gpu_trainer.models import Bench, prepare_torch

        prepare_torch()
        bench = Bench(self.questions)
        while True:
            task = self.orders.get()
            answer_waiting(bench)
            if task is None:
                continue
            with reporting(task, self._say):
                answer = carry_out(task, bench, _do)
            self._say(answer)

    def _say(self, message: dict[str, Any]) -> None:
        with self.lock:
            self.out.write(json.dumps(message) + "\n")


@contextmanager
def reporting(task: Task, say: Say) -> Iterator[None]:
    """Say what the task reports, from time to time, and the rest of it at the end."""
    ended = threading.Event()

    def report() -> None:
        while True:
            last = ended.is_set()
            drained = task.drain()
            if any(drained.values()):
                say({"report": drained})
            if last:
                return
            task.news.wait(REPORT_SECONDS)

    reporter = threading.Thread(target=report)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        task.news.set()
        reporter.join()


def _do(task: Task, bench: Any) -> Fact:
    from services.gpu_trainer import group
    from services.gpu_trainer.export import export_model
    from services.gpu_trainer.generate import generate
    from services.gpu_trainer.train import train

    match task.command.kind:
        case "train":
            return group.train_together(task, bench) if group.size(task) > 1 else train(task, bench)
        case "generate":
            return generate(task, bench)
    return export_model(task, bench)


def carry_out(task: Task, bench: Any, handler: Handler) -> dict[str, Any]:
    """Let the handler do what the task's command orders; how it ended."""
    try:
        event = handler(task, bench)
    except Stopped as stopped:
        return {"stopped": stopped.why}
    except RefluxError as error:
        return {"failure": error.failure().model_dump(mode="json")}
    except Exception as error:  # noqa: BLE001 (the border of the process: what is not foreseen is told, and the traceback logged)
        traceback.print_exc()
        bench.forget()  # whatever was left half done with the model
        return {"failure": unforeseen(error).model_dump(mode="json")}
    return {"event": event.model_dump(mode="json")}


def die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(0)


if __name__ == "__main__":
    main()
