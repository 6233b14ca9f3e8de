"""What a whole run takes beside its work. Work is every moment in which a worker has at least one task of the run in hand, from
its claim to the event that ends it, by the run's own history; the rest is waiting: for a decision, a ring, a claim, an end.

The run is that of `make demo`, on the embedded stack: every process is real. `--tiny` takes one of seconds instead.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.figures import figure, machine  # noqa: E402 the path is set above
from reflux.cli.spec_file import read_spec  # noqa: E402
from reflux.client import Client  # noqa: E402
from reflux.local.stack import Stack  # noqa: E402
from reflux.views import EventView, RunView  # noqa: E402

EXAMPLES = ROOT / "examples" / "automotive"
GOING_ON = ("task_claimed", "task_phase", "chunk_generated")  # events of a task that do not end it


class Wait(NamedTuple):
    seconds: float
    after: str
    before: str


class Measured(NamedTuple):
    """Seconds. `handlers`: those in which one of the workers' own functions ran, without claim and report."""

    whole: float
    handlers: float
    waits: list[Wait]

    @property
    def waited(self) -> float:
        return sum(wait.seconds for wait in self.waits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a student of 0.2 million parameters, two epochs")
    parser.add_argument("--runs", type=int, default=1, help="the middle one counts")
    options = parser.parse_args()
    print(f"{options.runs} run(s) of {'the tiny student' if options.tiny else 'the demo'}, on {machine()}")
    with tempfile.TemporaryDirectory(prefix="reflux-overhead-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        spec = tiny(folder) if options.tiny else read_spec(EXAMPLES / "demo.yaml")
        with Stack(folder / "stack", (EXAMPLES / "teacher.jsonl",)) as stack, client_of(stack) as client:
            found = [measured(client, client.wait(client.create(spec).id, 7200)) for _ in range(options.runs)]
    for run in found:
        show(run)
    figure("run_overhead", statistics.median(run.waited / run.whole for run in found), "<=", 0.02)


def tiny(folder: Path) -> dict[str, Any]:
    from tests.e2e.tiny import tiny_spec
    from tests.tiny_student import make

    return tiny_spec(make(folder / "student"))


def client_of(stack: Stack) -> Client:
    return Client(stack.api_url, stack.keys["operator"])


def measured(client: Client, run: RunView) -> Measured:
    """From the run's acceptance to its end."""
    if run.outcome != "succeeded" or run.ended_at is None:
        raise SystemExit(f"The run has {run.outcome}: {run.error}")
    events = list(history(client, run.id))
    ends = [(event.at.timestamp(), event.body["seconds"]) for event in events if event.body.get("seconds")]
    handlers = union((end - seconds, end) for end, seconds in ends)
    return Measured((run.ended_at - run.created_at).total_seconds(), handlers, waits(events))


def history(client: Client, run_id: str) -> Iterable[EventView]:
    after = 0
    while True:
        page = client.events(run_id, after=after, limit=1000)
        yield from page.data
        if not page.has_more:
            return
        after = page.data[-1].seq


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that at least one of the spans covers."""
    covered, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


def waits(events: list[EventView]) -> list[Wait]:
    """When no task was in hand, the longest first: what had happened, and what ended the wait."""
    found, in_hand = list[Wait](), set[str]()
    for event, following in pairwise(events):
        key = event.body.get("key", "")
        if event.type == "task_claimed":
            in_hand.add(key)
        elif event.type not in GOING_ON:
            in_hand.discard(key)
        if not in_hand:
            found.append(Wait((following.at - event.at).total_seconds(), named(event), named(following)))
    return sorted(found, reverse=True)


def named(event: EventView) -> str:
    return " ".join(part for part in (event.type, event.body.get("key")) if part)


def show(run: Measured) -> None:
    print(f"  {run.whole:8.2f} s  the run, from its acceptance to its end")
    print(f"  {run.whole - run.waited:8.2f} s  with a task in hand; {run.handlers:.2f} s in the workers' own functions")
    print(f"  {run.waited:8.2f} s  without, in {len(run.waits)} waits; the longest:")
    for wait in run.waits[:5]:
        print(f"  {wait.seconds:8.3f} s  {wait.after} -> {wait.before}")


if __name__ == "__main__":
    main()
