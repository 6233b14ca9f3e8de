"""The API with a full database: GET /v1/runs against a bare FastAPI route, while readers follow events.

Both are asked in turn over one connection each. The bare route answers, from memory and without a key, a page of the same size.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.figures import figure, machine  # noqa: E402 the path is set above
from reflux.local import servers  # noqa: E402
from reflux.local.stack import Stack  # noqa: E402
from reflux.run import Run  # noqa: E402
from reflux.spec import RunSpec  # noqa: E402
from reflux.summary import EpochMetrics, Scores  # noqa: E402

ROUNDS = 7
BARE = """
import json, os
from typing import Any
from fastapi import FastAPI

app = FastAPI()
page = json.loads(open(os.environ["PAGE"]).read())

@app.get("/page")
def answer() -> dict[str, Any]:
    return page
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--requests", type=int, default=4200)
    parser.add_argument("--event-seconds", type=float, default=5.0, help="from one event of a run at work to its next")
    options = parser.parse_args()
    print(f"{options.runs} runs, {options.events} events, {options.requests} requests a side, {machine()}")
    with tempfile.TemporaryDirectory(prefix="reflux-bench-") as folder:
        os.chmod(folder, 0o755)
        with Stack(Path(folder) / "stack", workers={}, durable=False, env={"REFLUX_CALLS_PER_MINUTE": "0"}) as stack:
            stack.stop("control")  # it would publish all that is loaded
            started = time.perf_counter()
            live = fill(stack, options.runs, options.events)
            print(f"  {time.perf_counter() - started:8.1f} s         to load the tables")
            stack.start("control")
            measure(stack, Path(folder), live, options)


def fill(stack: Stack, runs: int, events: int) -> list[str]:
    """Bulk-load runs that are over, with their events, and ten that are at work; the ids of those."""
    now = datetime.now(UTC)
    with connect(stack) as db, db.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")  # the rows' references are right by construction
        with cursor.copy(f"copy runs ({RUN_COLUMNS}) from stdin") as copy:
            for row in run_rows(runs, now, events // runs):
                copy.write_row(row)
        with cursor.copy("copy events (run_id, seq, type, status, body, at) from stdin") as copy:
            for block in event_blocks(runs, events, now):
                copy.write(block)
        db.commit()
        db.autocommit = True
        cursor.execute("vacuum analyze runs, events")
        return [run_id(number) for number in range(runs - 10, runs)]


RUN_COLUMNS = (
    "id, name, recipe, status, stage, labels, state, seq, projected_seq, notified_seq, published_seq, body_hash, "
    "created_at, started_at, ended_at"
)
TELL = """
    insert into events (run_id, seq, type, status, body)
    select id, seq, 'chunk_scored', 'refining', '{}' from runs where id = %s
"""


def run_id(number: int) -> str:
    return f"20260101-000000-{number:06x}"


def run_rows(count: int, now: datetime, events_each: int) -> Iterator[tuple[Any, ...]]:
    """The newest ten are refining, the others have ended."""
    spec = RunSpec.model_validate({"data": {"sources": [{"uri": "file:///src", "domain": "tsn"}]}})
    epochs = tuple(
        EpochMetrics(
            epoch=number,
            adapter_path=f"adapters/{number}",
            train_loss=1.0,
            steps=100,
            rows=1000,
            practice=Scores(count=200, overall=6.0),
            correction_rate=0.3,
        )
        for number in (1, 2, 3)
    )
    made = {
        stage: Run(id="any", spec=spec, stage=stage, epoch=3, epochs=epochs, outcome=outcome).model_dump_json()
        for stage, outcome in (("succeeded", "succeeded"), ("refining", None))
    }
    for number in range(count):
        at = now - timedelta(seconds=count - number)
        over = number < count - 10
        stage = "succeeded" if over else "refining"
        labels = json.dumps({"team": f"team {number % 50}"})
        yield (
            run_id(number),
            f"run {number % 1000}",
            "distill",
            stage,
            stage,
            labels,
            made[stage],
            events_each,
            events_each,
            events_each,
            events_each,
            "",
            at,
            at,
            at if over else None,
        )


def event_blocks(runs: int, count: int, now: datetime) -> Iterator[str]:
    body = json.dumps({"type": "chunk_scored", "key": "score-001-student-practice-0003", "count": 16})
    each = count // runs
    for start in range(0, runs, 1000):
        yield "".join(
            f"{run_id(number)}\t{seq}\tchunk_scored\trefining\t{body}\t{now.isoformat()}\n"
            for number in range(start, min(start + 1000, runs))
            for seq in range(1, each + 1)
        )


def measure(stack: Stack, folder: Path, live: list[str], options: argparse.Namespace) -> None:
    ours = Caller(stack.ports["api"], "/v1/runs", stack.keys["operator"])
    page = folder / "page.json"
    page.write_bytes(ours.body())
    port = servers.free_port()
    (folder / "bare.py").write_text(BARE)
    command = [sys.executable, "-m", "uvicorn", "bare:app", "--no-access-log", "--log-level", "warning", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, env={**os.environ, "PAGE": str(page)}) as server:
        try:
            bare = Caller(port, "/page")
            bare.wait()
            compare("without readers", ours, bare, options.requests)
            with Readers(stack, live, options.readers, options.event_seconds) as readers:
                ratio = compare(f"with {options.readers} readers", ours, bare, options.requests)
                told, heard = readers.settle()
            print(
                f"  {heard:8d} events        heard of {told} that were due, each run having one every {options.event_seconds:g} s"
            )
            filters(stack, ours)
        finally:
            server.terminate()
    figure("api_p99_vs_bare", ratio, "<=", 3)


class Caller:
    """One kept connection, one call."""

    def __init__(self, port: int, path: str, key: str = "") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.path = path
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def body(self, query: str = "") -> bytes:
        self.connection.request("GET", self.path + query, headers=self.headers)
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    def seconds(self, query: str = "") -> float:
        started = time.perf_counter()
        self.body(query)
        return time.perf_counter() - started

    def wait(self) -> None:
        until = time.monotonic() + 30
        while True:
            try:
                self.body()
                return
            except (OSError, http.client.HTTPException):
                self.connection.close()
                assert time.monotonic() < until
                time.sleep(0.1)


def compare(told: str, ours: Caller, bare: Caller, requests: int) -> float:
    """Ours to bare: the ratio of the 99th percentiles, the middle one of ROUNDS rounds."""
    for caller in (ours, bare):
        caller.connection.close()
        for _ in range(100):
            caller.body()
    rounds = [[(ours.seconds(), bare.seconds()) for _ in range(requests // ROUNDS)] for _ in range(ROUNDS)]
    print(f"  {told}, the middle of {ROUNDS} rounds:")
    worst = []
    for side, name in enumerate(("GET /v1/runs", "a bare route, the same page")):
        times = [[pair[side] * 1000 for pair in pairs] for pairs in rounds]
        worst.append([percentile(part, 0.99) for part in times])
        p50, p99 = (statistics.median(percentile(part, share) for part in times) for share in (0.5, 0.99))
        rate = statistics.median(1000 * len(part) / sum(part) for part in times)
        print(f"    p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   {rate:6.0f} requests/s   {name}")
    return statistics.median(mine / its for mine, its in zip(*worst, strict=True))


def filters(stack: Stack, ours: Caller) -> None:
    for query in ("?status=refining", "?name=run%207", "?metadata[team]=team%207", f"?after={run_id(50)}", "?limit=100"):
        print(f"  p50 {statistics.median(ours.seconds(query) for _ in range(50)) * 1000:6.2f} ms   GET /v1/runs{query}")
    prometheus = Caller(stack.ports["api"], "/metrics", stack.keys["operator"])
    print(f"      {prometheus.seconds() * 1000:6.0f} ms   GET /metrics, drawn anew")


class Readers:
    """Readers of the runs at work in a process of their own; each run has an event every `event_seconds`."""

    def __init__(self, stack: Stack, live: list[str], count: int, event_seconds: float) -> None:
        self.stack, self.live, self.count, self.event_seconds = stack, live, count, event_seconds

    def __enter__(self) -> "Readers":
        self.heard = multiprocessing.Value("q", 0)
        self.open = multiprocessing.Value("q", 0)
        arguments = (self.stack.ports["api"], self.stack.keys["operator"], self.live, self.count, self.heard, self.open)
        self.process = multiprocessing.Process(target=read_all, args=arguments, daemon=True)
        self.process.start()
        eventually(lambda: self.open.value == self.count, "not every reader was let in")
        with connect(self.stack) as db:
            (self.first,) = db.execute("select max(seq) from events where run_id = any(%s)", [self.live]).fetchone() or (0,)
        eventually(lambda: self.heard.value == self.first * self.count, "the history was not replayed")
        self.told, self.closing = 0, threading.Event()
        self.teller = threading.Thread(target=self._tell)
        self.teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.process.kill()

    def settle(self) -> tuple[int, int]:
        """How many events were due to all readers, and how many they heard."""
        self.closing.set()
        self.teller.join()
        due = self.told * self.count // len(self.live)
        try:
            eventually(lambda: self.heard.value - self.first * self.count >= due, "", 10)
        except TimeoutError:
            pass
        return due, self.heard.value - self.first * self.count

    def _tell(self) -> None:
        """Events of the runs in turn, as advance() tells them."""
        with connect(self.stack) as db:
            while not self.closing.wait(self.event_seconds / len(self.live)):
                run = self.live[self.told % len(self.live)]
                db.execute("update runs set seq = seq + 1, projected_seq = seq + 1, notified_seq = seq + 1 where id = %s", [run])
                db.execute(TELL, [run])
                db.execute("select pg_notify('reflux', %s)", [run])
                db.commit()
                self.told += 1


def read_all(port: int, key: str, runs: list[str], count: int, heard: Any, open_: Any) -> None:
    async def read(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        path = f"/v1/runs/{runs[number % len(runs)]}/events"
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nAccept: text/event-stream\r\n\r\n"
        writer.write(head.encode())
        assert b" 200 " in await reader.readline()
        open_.value += 1
        while line := await reader.readline():
            heard.value += line.startswith(b"id:")

    async def everybody() -> None:
        await asyncio.gather(*(read(number) for number in range(count)))

    asyncio.run(everybody())


def eventually(look: Callable[[], bool], otherwise: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not look():
        if time.monotonic() > until:
            raise TimeoutError(otherwise)
        time.sleep(0.05)


def connect(stack: Stack) -> psycopg.Connection[Any]:
    return psycopg.connect(f"postgresql://postgres@127.0.0.1:{stack.ports['postgres']}/reflux")


def percentile(values: Any, share: float) -> float:
    return float(sorted(values)[int(len(values) * share)])


if __name__ == "__main__":
    main()
