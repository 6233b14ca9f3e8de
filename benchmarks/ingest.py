"""Ingest: extraction against a bare parse of the same files; time and memory of whole datasets as the source grows.

The source is the example corpus over and over, its identifiers renamed each time, so that no two functions are alike.
Each dataset is made in a process of its own, whose peak memory is read from the kernel. What it is made of: the libraries
(105 MB), 32 readers' files and remembered tokens (40 MB once there are enough of them), four parts of a large train.jsonl
on their way to the store (20 MB), and, while the split is made, some sixty bytes a row.
"""

import argparse
import math
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import tree_sitter_c  # noqa: E402 the path is set above
import tree_sitter_cpp  # noqa: E402
from tree_sitter import Language, Parser  # noqa: E402

from benchmarks.figures import figure, machine  # noqa: E402
from reflux.artifacts import Artifacts  # noqa: E402
from reflux.commands import Prepare  # noqa: E402
from reflux.spec import RunSpec  # noqa: E402
from reflux.stages import Stage  # noqa: E402
from reflux.task import Task  # noqa: E402
from services.teacher_worker.dataset import prepare  # noqa: E402
from services.teacher_worker.extract import functions, language_of  # noqa: E402

MB = 1_000_000
NAME = re.compile(r"\b(?!std|int|uint)[a-z]\w*_\w+\b")
Texts = list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 20, 100], help="sizes of source, ascending")
    parser.add_argument("--gigabyte", action="store_true", help="1,000 MB as well: about 20 minutes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        one_dataset(options.make)
        return
    print(f"on {machine()}")
    ratio = extraction(options.rounds)
    exponent, memory = growth([*options.megabytes, *([1000] if options.gigabyte else [])])
    figure("extraction_vs_parse", ratio, ">=", 0.5)
    figure("ingest_time_exponent", exponent, "<=", 1.1)
    figure("ingest_peak_memory_growth", memory, "<=", 1.5)


def extraction(rounds: int) -> float:
    """Of the bare parse's speed, the share that functions are found with. The sides take turns."""
    texts = [one for _, one in zip(range(600), variants(), strict=False)]
    size = sum(len(text.encode()) for _, text in texts) / MB
    sides = {"bare tree-sitter parse": bare, "functions with comment, signature, scope": ours}
    rates = {name: list[float]() for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.process_time()
            side(texts)
            rates[name].append(size / (time.process_time() - started))
    print(f"extraction of {size:.1f} MB in {len(texts)} files, {rounds} rounds")
    for name, values in rates.items():
        print(f"  {statistics.median(values):8.2f} MB/s  {name}")
    parse, extract = (statistics.median(values) for values in rates.values())
    return extract / parse


def bare(texts: Texts) -> int:
    parsers = {"c": Parser(Language(tree_sitter_c.language())), "cpp": Parser(Language(tree_sitter_cpp.language()))}
    return sum(parsers[language_of(text, path)].parse(text.encode()).root_node.child_count for path, text in texts)


def ours(texts: Texts) -> int:
    return sum(len(functions(text, path)) for path, text in texts)


def growth(sizes: list[int]) -> tuple[float, float]:
    """Whole datasets of each size in MB. Of the last step: the exponent of the time, and how much more memory it took."""
    print("  source MB     rows   seconds    MB/s  rows/s  peak MB")
    taken, peaks = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="reflux-bench-") as folder:
            write_source(Path(folder) / "source", size * MB)
            command = [sys.executable, __file__, "--make", folder]
            rows, passed, peak = (float(word) for word in subprocess.check_output(command, text=True).split())
        taken.append(passed)
        peaks.append(peak)
        print(f"  {size:9d} {rows:8.0f} {passed:9.1f} {size / passed:7.2f} {rows / passed:7.0f} {peak:8.0f}", flush=True)
    exponent = math.log(taken[-1] / taken[-2]) / math.log(sizes[-1] / sizes[-2])
    return exponent, peaks[-1] / peaks[-2]


def one_dataset(folder: Path) -> None:
    """Makes the dataset of `folder`/source; prints its rows, the seconds and the peak in MB."""
    data = {"sources": [{"uri": f"file://{folder}/source", "domain": "tsn"}]}
    task = Task(
        "bench", Prepare(stage=Stage.PREPARING), RunSpec.model_validate({"data": data}), Artifacts(f"file://{folder}/store")
    )
    started = time.perf_counter()
    made = prepare(task)
    passed = time.perf_counter() - started
    print(made.train + made.val + made.dev + made.test, passed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def write_source(folder: Path, size: int) -> None:
    written = 0
    for number, (path, text) in enumerate(variants()):
        if written >= size:
            return
        file = folder / f"{number // 500:04d}" / f"{number}{Path(path).suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        written += file.write_bytes(text.encode())


def variants() -> Iterator[tuple[str, str]]:
    """Path and text of the example corpus's files, again and again, each time with other names. Endless."""
    corpus = [(str(file), file.read_text()) for file in sorted((ROOT / "examples/automotive/corpus").rglob("*.[ch]*"))]
    number = 0
    while True:
        for path, text in corpus:
            yield path, NAME.sub(rf"\g<0>_{number:x}", text)
        number += 1


if __name__ == "__main__":
    main()
