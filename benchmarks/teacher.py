"""The teacher: calls a second against the quota, against five threads that sleep, by workers, and by number of prompts.

Workers are processes that do what a teacher_worker does: four tasks at once, each a shard of the prompts. They ask the
stand-in over HTTP through boto3 and store each answer as a run does. The stand-in takes half a second for an answer.
"""

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.figures import figure, machine  # noqa: E402 the path is set above
from reflux.artifacts import Artifacts  # noqa: E402
from reflux.commands import Teach  # noqa: E402
from reflux.local.servers import free_port  # noqa: E402
from reflux.protocol import Share  # noqa: E402
from reflux.records import Prompt  # noqa: E402
from reflux.spec import RunSpec  # noqa: E402
from reflux.stages import Stage  # noqa: E402
from reflux.task import Task  # noqa: E402
from services.teacher_worker.teachers import teacher_for  # noqa: E402
from services.teacher_worker.teaching import teach  # noqa: E402

LATENCY = 0.5  # seconds
FEW = 32  # calls at once, of which two cores bear the clients, the stand-in and the store without being what is measured
MANY = 64
TASKS = 4  # at once in a worker
SHARD = 50
NOTEBOOK_THREADS = 5
TEXT = "```c\n" + "    uint32_t gate = gate_states[index];\n" * 40 + "```"


@dataclass(frozen=True)
class Measured:
    """`rate` in answers a second, `throttled` as a share of the calls, `cpu` in seconds of the workers a call."""

    rate: float
    throttled: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=20, help="that each measurement takes at the ideal rate")
    parser.add_argument("--largest", type=int, default=10_000, help="prompts, of the growth table; 100000 takes minutes")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(**json.loads(options.worker))
        return
    ideal, quota = FEW / LATENCY, 0.8 * FEW / LATENCY
    print(f"{LATENCY:g} s an answer, {machine()}")
    with stand_in() as url:
        print(f"  {capacity(url):8.1f} calls/s  the stand-in, asked by bare HTTP without a wait")
        free = measured(url, options.seconds, ideal, FEW)
        told(free, f"{FEW} calls at once, no throttling; the ideal is {ideal:g}")
        held = measured(url, options.seconds, quota, FEW, per_second=quota, burst=round(quota / 10))
        told(held, f"{FEW} calls at once, a quota of {quota:g} calls/s with a tenth of a second's burst")
        many = measured(url, options.seconds, MANY / LATENCY, MANY)
        told(many, f"{MANY} calls at once, no throttling; the ideal is {MANY / LATENCY:g}")
        old = notebook(url, options.seconds)
        print(f"  {old:8.1f} calls/s  ThreadPool({NOTEBOOK_THREADS}), each thread sleeping out its own backoff")
        scale = workers(url, options.seconds)
        growth(url, options.largest)
    figure("teacher_vs_ideal", free.rate / ideal, ">=", 0.95)
    figure("teacher_vs_quota_throttled", held.rate / quota, ">=", 0.85)
    figure("teacher_vs_threadpool", many.rate / old, ">=", 8)
    figure("teacher_workers_1_to_4", scale, ">=", 0.9)


def measured(url: str, seconds: float, expected: float, at_once: int, processes: int = 1, **quota: float) -> Measured:
    """Enough prompts for so many seconds at the expected rate."""
    behave(url, latency=LATENCY, **quota)
    return run(url, round(seconds * expected / SHARD / TASKS / processes) * SHARD * TASKS * processes, at_once, processes)


def run(url: str, prompts: int, at_once: int, processes: int = 1) -> Measured:
    """Let the workers answer all prompts. Their start does not count: they wait for the word."""
    httpx.delete(f"{url}/_log").raise_for_status()
    with tempfile.TemporaryDirectory(prefix="reflux-bench-") as folder:
        rows = [Prompt(id=f"p{i:06d}", text=f"Write C function {i}.", set="practice", family=f"{i}") for i in range(prompts)]
        Artifacts(f"file://{folder}").write_rows("prompts.jsonl", rows)
        started = []
        for number in range(processes):
            order = {"url": url, "folder": folder, "prompts": prompts, "at_once": at_once, "number": number, "of": processes}
            command = [sys.executable, __file__, "--worker", json.dumps(order)]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for worker in started:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        began = time.perf_counter()
        for worker in started:
            print("go", file=worker.stdin, flush=True)
        cpu = sum(float(worker.stdout.readline()) for worker in started if worker.stdout)
        took = time.perf_counter() - began
        for worker in started:
            worker.communicate()
    calls = httpx.get(f"{url}/_log", timeout=60).json()["calls"]
    answered = sum(call["status"] == 200 for call in calls)
    assert answered == prompts, f"{answered} answers to {prompts} prompts"
    return Measured(prompts / took, 1 - answered / len(calls), cpu / len(calls))


def work(url: str, folder: str, prompts: int, at_once: int, number: int, of: int) -> None:
    """One worker's part: every `of`-th shard, four at a time."""
    teacher = {"provider": "recorded", "endpoint_url": url, "concurrency": at_once}
    spec = RunSpec.model_validate({"data": {"sources": [{"uri": "file:///nowhere"}]}, "teacher": teacher})
    shards = [range(start, min(start + SHARD, prompts)) for start in range(0, prompts, SHARD)][number::of]
    teacher_for(spec.teacher)

    in_hand: list[Task] = []
    lock = Lock()

    def share_anew() -> None:
        """What the API tells a worker as its tasks come and go, were all workers to have as many in hand."""
        for place, task in enumerate(in_hand):
            task.share = Share(place=number * len(in_hand) + place, of=of * len(in_hand))

    def shard(part: range) -> None:
        command = Teach(stage=Stage.TEACHING, shard=part.start, start=part.start, stop=part.stop, prompts_path="prompts.jsonl")
        task = Task("bench", command, spec, Artifacts(f"file://{folder}"), task_id=part.start)
        with lock:
            in_hand.append(task)
            share_anew()
        teach(task)
        with lock:
            in_hand.remove(task)
            share_anew()

    print("ready", flush=True)
    sys.stdin.readline()
    before = cpu_seconds()
    with ThreadPoolExecutor(TASKS) as pool:
        list(pool.map(shard, shards))
    print(cpu_seconds() - before, flush=True)


def notebook(url: str, seconds: float) -> float:
    """Five threads over one client; a throttled call sleeps 1, 2, 4 … seconds with jitter, in its thread."""
    import boto3
    from botocore.config import Config

    behave(url, latency=LATENCY)
    config = Config(retries={"total_max_attempts": 1})
    client = boto3.client(
        "bedrock-runtime", "us-east-1", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x", config=config
    )

    def one(i: int) -> None:
        for attempt in range(5):
            try:
                client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": f"Write C function {i}."}]}])
                return
            except client.exceptions.ThrottlingException:
                time.sleep(2**attempt + random.uniform(0, 1))

    count = round(seconds * NOTEBOOK_THREADS / LATENCY / 2)
    began = time.perf_counter()
    with ThreadPoolExecutor(NOTEBOOK_THREADS) as pool:
        list(pool.map(one, range(count)))
    return count / (time.perf_counter() - began)


def workers(url: str, seconds: float) -> float:
    """The same share for each worker, out of one quota that is enough for all of them."""
    each = MANY // 4
    rates = {}
    for count in (1, 2, 4):
        expected = each * count / LATENCY
        found = measured(url, seconds, expected, each * count, count, per_second=1.25 * MANY / LATENCY, burst=MANY)
        told(found, f"{count} workers with {each} calls at once each; the ideal is {expected:g}")
        rates[count] = found.rate
    return rates[4] / (4 * rates[1])


def growth(url: str, largest: int) -> None:
    """How the time grows with the number of prompts, where the teacher answers at once: 1 is linear."""
    behave(url, latency=0)
    sizes = [10**power for power in range(2, 6) if 10**power <= largest]
    times = []
    for size in sizes:
        found = run(url, size, MANY)
        times.append(size / found.rate)
        print(f"  {size:8d} prompts  {times[-1]:7.2f} s, {1000 * found.cpu:.2f} ms of CPU a call")
    if len(sizes) > 1:
        exponent = math.log(times[-1] / times[0]) / math.log(sizes[-1] / sizes[0])
        print(f"  from {sizes[0]} to {sizes[-1]} prompts the time grows with exponent {exponent:.2f}")


@contextmanager
def stand_in() -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "reflux.local.recorded_teacher", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stderr is not None
    try:
        process.stderr.readline()  # it says so once it listens
        yield url
    finally:
        process.terminate()
        process.wait()


def behave(url: str, **behaviour: Any) -> None:
    httpx.post(f"{url}/_control", json={"answer": TEXT, **behaviour}).raise_for_status()


def capacity(url: str) -> float:
    """What the stand-in itself can serve, in calls a second: it must not be what is measured."""
    behave(url, latency=0)
    script = (
        "import http.client, sys\n"
        "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
        "for _ in range(1000):\n"
        "    c.request('POST', '/model/m/converse', sys.argv[2]); c.getresponse().read()\n"
    )
    body = json.dumps({"messages": [{"role": "user", "content": [{"text": "Write C function 1."}]}]})
    command = [sys.executable, "-c", script, url.rsplit(":", 1)[1], body]
    began = time.perf_counter()
    for process in [subprocess.Popen(command) for _ in range(2)]:
        assert process.wait() == 0
    return 2000 / (time.perf_counter() - began)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def told(found: Measured, words: str) -> None:
    more = f", {found.throttled:.0%} of the calls throttled" if found.throttled else ""
    print(f"  {found.rate:8.1f} calls/s  {words}{more} ({1000 * found.cpu:.2f} ms of CPU a call)")


if __name__ == "__main__":
    main()
