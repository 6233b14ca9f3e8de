"""Scoring: answers a second, against bare gcc, against one file and one gcc at a time, and from memory.

Each side judges the same texts, the sides take turns, and the middle of several rounds counts.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.figures import figure, machine  # noqa: E402 the path is set above
from services.evaluator.extract_code import extract  # noqa: E402
from services.evaluator.score import Attempt, Scorer, the_compiler  # noqa: E402

FLAGS = ["gcc", "-fsyntax-only", "-Wall", "-Wextra", "-std=c11", "-x", "c"]
HEADERS = "".join(f"#include <{name}.h>\n" for name in ("stdbool", "stddef", "stdint", "stdio", "stdlib", "string"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    sides: dict[str, Callable[[list[Attempt]], None]] = {"ours": ours, "floor": floor, "notebook": notebook}
    rates = {name: list[float]() for name in sides}
    remembered = list[float]()
    ours(texts(4, -1))
    for number in range(options.rounds):
        attempts = texts(options.answers, number)
        for name, side in sides.items():
            rates[name].append(len(attempts) / seconds(side, attempts))
        remembered.append(len(attempts) / seconds(ours, attempts))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    sizes = [len(attempt.text.splitlines()) for attempt in texts(options.answers, 0)]
    where = machine(the_compiler().versions["gcc"])
    print(f"{options.answers} answers of {statistics.median(sizes):.0f} lines (middle), {options.rounds} rounds, {where}")
    for name, words in (
        ("ours", "scored: sandboxed compiler, rubric, evidence"),
        ("floor", f"bare gcc -fsyntax-only, {cores} at a time"),
        ("notebook", "one temporary file and one gcc at a time, compiled only"),
    ):
        print(f"  {middle[name]:8.1f} answers/s  {words}")
    print(f"  {statistics.median(remembered):8.1f} answers/s  the same texts again")
    growth(cores)
    figure("scoring_vs_floor", middle["ours"] / middle["floor"], ">=", 0.7)
    figure("scoring_vs_notebook", middle["ours"] / middle["notebook"], ">=", 1.6)
    figure("scoring_repeats", statistics.median(remembered) / middle["ours"], ">=", 50)


def texts(count: int, salt: int) -> list[Attempt]:
    """The example corpus's own C, each text made different by a name that only it has."""
    sources = sorted((ROOT / "examples/automotive/corpus").glob("*/*.c"))
    found = list[Attempt]()
    while len(found) < count:
        source = sources[len(found) % len(sources)]
        lines = [line for line in source.read_text().splitlines() if not line.startswith('#include "')]
        marked = "\n".join(lines) + f"\nint variant_{salt}_{len(found)}(int x) {{ return x + 1; }}\n"
        found.append(Attempt(f"```c\n{HEADERS}{marked}```\n", "Write a TSN gate function.", "tsn"))
    return found


_scorer: list[Scorer] = []


def ours(attempts: list[Attempt]) -> None:
    if not _scorer:
        _scorer.append(Scorer(compiler=the_compiler()))
    _scorer[0].score_all(attempts)


def floor(attempts: list[Attempt]) -> None:
    """Same texts, same parallelism; no sandbox, no scores, no Python on what the compiler said."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(_bare, [attempt.text for attempt in attempts]))


def notebook(attempts: list[Attempt]) -> None:
    for attempt in attempts:
        with tempfile.NamedTemporaryFile("w", suffix=".c") as file:
            file.write(_code(attempt.text))
            file.flush()
            subprocess.run([*FLAGS, file.name], capture_output=True, check=False)


def _bare(text: str) -> None:
    subprocess.run([*FLAGS, "-"], input=_code(text).encode(), capture_output=True, check=False)


def _code(text: str) -> str:
    return extract(text).code


def seconds(side: Callable[[list[Attempt]], None], attempts: list[Attempt]) -> float:
    started = time.perf_counter()
    side(attempts)
    return time.perf_counter() - started


def growth(cores: int) -> None:
    """How time grows with the number of answers: 1 is linear."""
    sizes = (30, 120)
    times = [seconds(ours, texts(size, 1000 + size)) for size in sizes]

    exponent = math.log(times[1] / times[0]) / math.log(sizes[1] / sizes[0])
    print(f"  from {sizes[0]} to {sizes[1]} answers the time grows with exponent {exponent:.2f}, on {cores} cores")


if __name__ == "__main__":
    main()
