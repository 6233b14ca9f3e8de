"""The parts of an epoch's refining at once: generation, scoring and correcting, each paced by a stand-in so that they take alike.

The loop, the API, control, PostgreSQL, Valkey and three workers are real. The lower bound is the slowest part alone.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.figures import figure, machine  # noqa: E402 the path is set above
from reflux.client import Client  # noqa: E402
from reflux.commands import Correct, Generate, Prepare, Score  # noqa: E402
from reflux.events import Event  # noqa: E402
from reflux.local.stack import Stack  # noqa: E402
from reflux.queues import kinds  # noqa: E402
from reflux.task import Task  # noqa: E402

SERVICES = ("teacher_worker", "evaluator", "gpu_trainer")
SIZE = 8  # answers a chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=60, help="of eight answers; the default epoch has 200")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds that each part takes for a chunk")
    parser.add_argument("--work-as", choices=SERVICES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work_as:
        return work_as(options.work_as, options.chunks, options.pace)
    print(f"{options.chunks} chunks, {options.pace:g} s a chunk in each part, on {machine()}")
    with tempfile.TemporaryDirectory(prefix="reflux-epoch-") as name, ExitStack() as open_:
        folder = Path(name)
        folder.chmod(0o755)
        stack = open_.enter_context(Stack(folder / "stack", workers={}))
        for service in SERVICES:
            open_.enter_context(worker(stack, service, options))
        seconds = refining(stack)
    alone = options.chunks * options.pace
    print(f"  {seconds:8.1f} s  refining, all parts at once")
    print(f"  {alone:8.1f} s  the slowest part alone; {3 * alone:.1f} s one after another")
    figure("epoch_vs_slowest_part", seconds / alone, "<=", 1.15)
    figure("epoch_vs_one_after_another", seconds / (3 * alone), "<=", 0.6)


def refining(stack: Stack) -> float:
    """Seconds of the first epoch's refining, from the claim of its Generate to its last judged correction."""
    spec = {
        "name": "overlap",
        "data": {"sources": [{"uri": "file:///src", "domain": "tsn"}]},
        "refining": {"max_epochs": 2},
        "teaching": {"enabled": False},
    }
    with Client(stack.api_url, stack.keys["operator"]) as client:
        run = client.create(spec)
        begun, over = None, None
        for event in client.follow(run.id):
            if event.type == "task_claimed" and event.body["key"] == "generate-001-student":
                begun = event.at
            if event.type == "task_claimed" and event.body["key"] == "train-002":
                break
            over = event.at
        assert begun
        assert over
        client.abort(run.id)
        return (over - begun).total_seconds()


@contextmanager
def worker(stack: Stack, service: str, options: argparse.Namespace) -> Iterator[None]:
    env = stack.environment() | {"REFLUX_WORKER_NAME": service, "REFLUX_CONCURRENCY": "1", "PYTHONPATH": str(ROOT)}
    paces = ["--chunks", str(options.chunks), "--pace", str(options.pace)]
    command = [sys.executable, str(Path(__file__).resolve()), "--work-as", service, *paces]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def work_as(service: str, chunks: int, pace: float) -> None:
    """A worker that takes `pace` for what makes, scores or corrects a chunk, and no time for anything else."""
    from reflux.worker import main as work
    from tests.unit.stories import answer, chunk, scores

    def handler(task: Task) -> Event:
        command = task.command
        facts: dict[str, Any] = {}
        match command:
            case Prepare():
                facts = {"practice": chunks * SIZE, "dev": 0, "test": 0}
            case Generate():
                made = []
                for index in range(chunks):
                    time.sleep(pace)
                    made.append(chunk(index, count=SIZE))
                    task.chunk_done(made[-1])
                facts = {"chunks": tuple(made)}
            case Score(chunk=piece):
                time.sleep(pace)
                facts = scores(piece, 5.0, poor=piece.count)
            case Correct():
                time.sleep(pace)
        return answer(command, **facts)

    work(service, dict.fromkeys(kinds(service), handler), dict)


if __name__ == "__main__":
    main()
