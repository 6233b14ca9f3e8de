"""From POST abort to a free GPU: how long until the GPU worker has taken the next run's task, at moments spread over training and
generation.

API, control, PostgreSQL, Valkey and the workers are real processes with their usual times; the student is tiny, and really
trains and writes. A step of it takes no time: what is measured is what Reflux adds to the step or token in hand.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.api import connect, percentile  # noqa: E402 the path is set above
from benchmarks.figures import figure, machine  # noqa: E402
from reflux.client import Client  # noqa: E402
from reflux.local.stack import Stack  # noqa: E402
from tests.e2e.tiny import EXAMPLES, tiny_spec  # noqa: E402

LATEST = 8.0  # seconds after a task was taken, at which its run is aborted at the latest
LOOK_SECONDS = 0.02
GPU = "('train', 'generate', 'export_model')"


class InHand(NamedTuple):
    """The GPU task in a worker's hands, and how many of other runs wait for it."""

    run_id: str
    key: str
    kind: str
    since: float
    waiting: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aborts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    print(f"{options.aborts} aborts, seed {options.seed}, on {machine()}")
    with tempfile.TemporaryDirectory(prefix="reflux-aborts-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Stack(folder / "stack", (EXAMPLES / "teacher.jsonl",)) as stack:
            seconds, forced = measured(stack, student(folder), options.aborts, random.Random(options.seed))
    every = [one for of_kind in seconds.values() for one in of_kind]
    for kind, of_kind in sorted(seconds.items()):
        print(f"  {percentile(of_kind, 0.5):8.2f} s p50, {max(of_kind):.2f} s at most, of {len(of_kind)} aborts in {kind}")
    print(f"  {percentile(every, 0.5):8.2f} s p50, {percentile(every, 0.95):.2f} s p95, {max(every):.2f} s at most, of all")
    print(f"  {forced} of them by force")
    figure("abort_to_free_gpu_p95_s", percentile(every, 0.95), "<=", 30)


def student(folder: Path) -> Path:
    from tests.tiny_student import make

    return make(folder / "student")


def measured(stack: Stack, student: Path, aborts: int, dice: random.Random) -> tuple[dict[str, list[float]], int]:
    """Seconds by the kind of what was aborted; how many workers had to be cut off."""
    kinds = ["train", "generate"] * (aborts // 2 + 2)
    dice.shuffle(kinds)
    seconds, victims = defaultdict[str, list[float]](list), list[InHand]()
    with Client(stack.api_url, stack.keys["operator"]) as client, connect(stack) as db:
        db.autocommit = True
        long_part = {client.create(endless(student, kind)).id: kind for kind in kinds}
        for number in range(aborts):
            moment = dice.uniform(0, LATEST)
            victim = next(
                at for at in looks(db) if at.waiting and long_part[at.run_id] == at.kind and time.time() - at.since >= moment
            )
            asked = time.time()
            client.abort(victim.run_id)
            free = next(at for at in looks(db) if at.run_id != victim.run_id)
            seconds[victim.kind].append(free.since - asked)
            victims.append(victim)
            print(f"  {number + 1:3} {victim.kind} after {asked - victim.since:4.1f} s: {free.since - asked:.2f} s", flush=True)
        for run_id in long_part:
            if not client.run(run_id).outcome:
                client.abort(run_id)
        cut_off = "select 1 from events where run_id = %s and type = 'task_stopped' and body @> %s"
        forced = sum(bool(db.execute(cut_off, (at.run_id, Jsonb({"key": at.key, "forced": True}))).fetchone()) for at in victims)
    return seconds, forced


def endless(student: Path, kind: str) -> dict[str, Any]:
    """A run that trains, or generates, for longer than anybody waits."""
    steps = 100_000 if kind == "train" else 1
    return tiny_spec(
        student,
        teaching={"enabled": False},
        training={"max_steps": steps, "eval_steps": 100_000, "checkpoint_steps": 100},
        generation={"max_new_tokens": 800, "batch_size": 1, "chunk_size": 1, "stop_at_fence": False},
        prompts={"practice": 200},
    )


def looks(db: psycopg.Connection[Any]) -> Iterator[InHand]:
    """What the GPU worker has in hand, again and again; nothing while it has nothing."""
    while True:
        row = db.execute(
            "select run_id, key, kind, extract(epoch from claimed_at)::float8, (select count(*) from tasks other"
            f" where other.status = 'ready' and other.kind in {GPU} and other.run_id <> tasks.run_id)"
            f" from tasks where status = 'claimed' and kind in {GPU}"
        ).fetchone()
        if row:
            yield InHand(*row)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
