"""Hops of the control plane: from "done" in one worker's hands to the next command in another's; a whole empty run, beside a
Prefect flow of as many tasks; and both again with many runs stored.

API, control, PostgreSQL, Valkey and workers are real processes; only the work is empty.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.api import connect, fill  # noqa: E402 the path is set above
from benchmarks.figures import figure, machine  # noqa: E402
from reflux.client import Client  # noqa: E402
from reflux.events import Event  # noqa: E402
from reflux.local.stack import Stack  # noqa: E402
from reflux.queues import kinds  # noqa: E402
from reflux.task import Task  # noqa: E402

SERVICES = ("teacher_worker", "evaluator", "gpu_trainer")
SPEC: dict[str, Any] = {
    "name": "empty",
    "data": {"sources": [{"uri": "file:///src", "domain": "tsn"}]},
    "refining": {"max_epochs": 1},
}
TASKS_EACH = 10  # of the runs that are stored

PREFECT = """
import sys, time
from prefect import flow, task

@task
def stage(number: int) -> int:
    return number

@flow
def run() -> None:
    for number in range(9):
        stage(number)

for _ in range(int(sys.argv[1]) + 2):
    started = time.perf_counter()
    run()
    print("seconds", time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--stored", type=int, nargs=2, default=(100, 100_000), metavar=("FEW", "MANY"))
    parser.add_argument(
        "--prefect", type=Path, help="a virtual environment that has Prefect; without it one is made, and removed"
    )
    parser.add_argument("--no-prefect", action="store_true")
    parser.add_argument("--work-as", choices=SERVICES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work_as:
        return work_as(options.work_as)
    print(f"{options.runs} empty runs, on {machine()}")
    few, many = (measured(stored, options.runs) for stored in options.stored)
    exponent = math.log(many.p50 / few.p50) / math.log(options.stored[1] / options.stored[0])
    print(f"  hops grow with the runs stored with exponent {exponent:.2f}")
    figure("hop_p50_ms", few.p50 * 1000, "<=", 25)
    figure("hop_p99_ms", few.p99 * 1000, "<=", 100)
    figure("hop_growth_exponent", exponent, "<=", 1)
    if not options.no_prefect:
        flow = prefect(options.prefect, options.runs)
        print(f"  {flow:8.3f} s  a Prefect flow of nine empty tasks, middle")
        figure("empty_run_vs_prefect", few.run / flow, "<=", 0.5)


class Measured:
    """Seconds: the middle and the worst hundredth of the hops; the middle run from its first task to its last."""

    def __init__(self, hops: list[float], runs: list[float]) -> None:
        ordered = sorted(hops)
        self.p50, self.p99 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        self.run = statistics.median(runs)


def measured(stored: int, runs: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="reflux-hops-") as name, ExitStack() as open_:
        folder = Path(name)
        folder.chmod(0o755)
        env = {"REFLUX_CALLS_PER_MINUTE": "0", "REFLUX_MAX_ACTIVE_RUNS": "1000"}
        stack = open_.enter_context(Stack(folder / "stack", workers={}, durable=True, env=env))
        stack.stop("control")
        fill(stack, stored, stored * 10)
        store_tasks(stack)
        stack.start("control")
        for service in SERVICES:
            open_.enter_context(worker(stack, service, folder / f"{service}.jsonl"))
        with Client(stack.api_url, stack.keys["operator"]) as client:
            for _ in range(3 + runs):
                client.wait(client.create(SPEC).id, 60)
        found = read(folder, skip=3)
    print(
        f"  {found.p50 * 1000:8.1f} ms p50, {found.p99 * 1000:.1f} ms p99 of a hop; "
        f"{found.run:.3f} s an empty run, with {stored} runs stored"
    )
    return found


def store_tasks(stack: Stack) -> None:
    with connect(stack) as db:
        db.execute("set session_replication_role = replica")
        db.execute(
            "insert into tasks (run_id, key, kind, stage, epoch, command, status, attempt, accepted_attempt, failures, barren,"
            " rings, claimed_at, heard_at, ended_at) select id, 'score-' || n, 'score', 'refining', 1, '{}', 'done', 1, 1, 0, 0,"
            f" 1, now(), now(), now() from runs, generate_series(1, {TASKS_EACH}) n where ended_at is not null"
        )
        db.commit()
        db.autocommit = True
        db.execute("vacuum analyze tasks")


@contextmanager
def worker(stack: Stack, service: str, log: Path) -> Iterator[None]:
    env = stack.environment() | {"REFLUX_WORKER_NAME": service, "REFLUX_HOPS": str(log), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).resolve()), "--work-as", service]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def work_as(service: str) -> None:
    """A worker whose commands take no time: it notes when it had each, and when it was done."""
    from reflux.worker import main as work
    from tests.unit.stories import answer

    with Path(os.environ["REFLUX_HOPS"]).open("a", encoding="utf-8") as log:

        def handler(task: Task) -> Event:
            begun = time.time()
            event = answer(task.command)
            log.write(json.dumps({"run": task.run_id, "key": task.command.key, "begun": begun, "over": time.time()}) + "\n")
            log.flush()
            return event

        work(service, dict.fromkeys(kinds(service), handler), dict)


def read(folder: Path, skip: int) -> Measured:
    """Each command's time since the last that was done before it in its run."""
    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in folder.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            tasks[row["run"]].append(row)
    hops, runs = list[float](), list[float]()
    for _, done in sorted(tasks.items(), key=lambda item: min(row["begun"] for row in item[1]))[skip:]:
        done.sort(key=lambda row: row["begun"])
        runs.append(max(row["over"] for row in done) - done[0]["begun"])
        for row in done[1:]:
            hops.append(row["begun"] - max(before["over"] for before in done if before["over"] <= row["begun"]))
    return Measured(hops, runs)


def prefect(environment: Path | None, runs: int) -> float:
    """The middle flow's seconds, with a server of its own, after two that don't count."""
    with tempfile.TemporaryDirectory(prefix="reflux-prefect-") as name:
        folder = Path(name)
        if environment is None:
            environment = folder / "venv"
            print("  Installing Prefect into an environment of its own …", flush=True)
            venv.create(environment, with_pip=True)
            subprocess.run([environment / "bin/pip", "install", "--quiet", "prefect==3.9.1"], check=True)
        (folder / "flow.py").write_text(PREFECT, encoding="utf-8")
        env = {
            **os.environ,
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        }
        env.pop("PYTHONPATH", None)
        command = [str(environment / "bin/python"), str(folder / "flow.py"), str(runs)]
        told = subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True, text=True).stdout
    seconds = [float(line.split()[1]) for line in told.splitlines() if line.startswith("seconds")]
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
