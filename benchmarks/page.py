"""Write docs/benchmarks.md and its drawings out of what the benchmarks printed. No benchmark itself.

Each output is FOLDER/NAME.txt, as `make bench-NAME` leaves it below .bench, or FOLDER/NAME-ELSEWHERE.txt, of another machine; its
date is the file's.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "reflux", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
matplotlib.rcParams |= {"axes.spines.right": False}

from matplotlib import pyplot  # noqa: E402 the back end is chosen above

ROOT = Path(__file__).parents[1]
FIGURE = re.compile(r"^figure (\w+) (-?[\d.]+) target ([<>]=)([\d.]+) (holds|short)$", re.MULTILINE)
MACHINE = re.compile(r"\d+ cores of .*|NVIDIA .*")
EXPONENT = re.compile(r"^ *(.*) with exponent (-?[\d.]+)", re.MULTILINE)
# What grows: the size first, then what it takes. In each benchmark's own words.
GROWTH = {
    "seconds of a dataset, by MB of source": re.compile(
        r"^ +(?P<size>\d+) +\d+ +(?P<takes>[\d.]+) +[\d.]+ +\d+ +\d+$", re.MULTILINE
    ),
    "seconds of teaching, by prompts": re.compile(r"^ +(?P<size>\d+) prompts +(?P<takes>[\d.]+) s", re.MULTILINE),
    "milliseconds of a hop, by runs stored": re.compile(
        r"^ +(?P<takes>[\d.]+) ms p50, .* with (?P<size>\d+) runs stored", re.MULTILINE
    ),
}
HEAD = """# Benchmarks

Ratios, measured side by side on one machine in one run: both sides see the same load, so that a ratio says more than its seconds.
`make bench` runs every script of [`benchmarks`](../benchmarks), `make bench-scoring` one of them; what they print is kept below
`.bench`, and `make bench-page` writes this page from it. Nothing here is written by hand, and no test asserts a time.
"""


@dataclass(frozen=True)
class Figure:
    benchmark: str
    name: str
    value: float
    bound: str
    target: float
    holds: bool

    @property
    def margin(self) -> float:
        """1: just at its target; more: better by that factor."""
        better, worse = (self.value, self.target) if self.bound == ">=" else (self.target, self.value)
        return better / max(worse, 0.001)  # what is printed has three decimals


@dataclass(frozen=True)
class Output:
    """What one benchmark printed, without what libraries said in between."""

    name: str
    text: str
    date: str

    @property
    def figures(self) -> list[Figure]:
        return [Figure(self.name, n, float(v), b, float(t), h == "holds") for n, v, b, t, h in FIGURE.findall(self.text)]

    @property
    def machine(self) -> str:
        """As it was told; of the kernel's name, the version alone."""
        found = MACHINE.search(self.text)
        return re.sub(r"(Linux \d+\.\d+)[^,\n]*", r"\1", found[0]) if found else "not told"

    @property
    def purpose(self) -> str:
        """The first paragraph of the script's docstring."""
        script = ROOT / "benchmarks" / f"{script_of(self.name)}.py"
        told = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        return " ".join(told.split("\n\n")[0].split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=Path, default=ROOT / ".bench", metavar="FOLDER")
    parser.add_argument("--into", type=Path, default=ROOT / "docs", metavar="FOLDER")
    options = parser.parse_args()
    outputs = read(options.outputs)
    if not outputs:
        parser.error(f"{options.outputs} has no output with a figure: run `make bench` first.")
    drawings = options.into / "benchmarks"
    drawings.mkdir(parents=True, exist_ok=True)
    ratios = [figure for output in outputs for figure in output.figures if not figure.name.endswith("_exponent")]
    draw_margins(ratios, drawings / "margins.svg")
    growing = dict(growth(outputs))
    if growing:
        draw_growth(growing, drawings / "growth.svg")
    (options.into / "benchmarks.md").write_text(page(outputs, grows=bool(growing)), encoding="utf-8")
    short = [figure.name for output in outputs for figure in output.figures if not figure.holds]
    print(f"{options.into / 'benchmarks.md'}: {len(outputs)} benchmarks; short of their targets: {', '.join(short) or 'none'}")


def read(folder: Path) -> list[Output]:
    """The outputs that have a figure, by name; logs and what broke off have none."""
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    outputs = []
    for path in sorted(folder.glob("*.txt")):
        if script_of(path.stem) in scripts:
            date = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
            outputs.append(Output(path.stem, cleaned(path.read_text(encoding="utf-8")), date))
    return [output for output in outputs if output.figures]


def script_of(name: str) -> str:
    return name.partition("-")[0]


def cleaned(text: str) -> str:
    kept = [line for line in text.splitlines() if MACHINE.search(line) or re.match(r"figure |  .*[^(…]$|extraction of", line)]
    return re.sub(r"(Linux \d+\.\d+)[^,\n]*", r"\1", "\n".join(kept))


def page(outputs: list[Output], *, grows: bool) -> str:
    figures = [figure for output in outputs for figure in output.figures]
    held = sum(figure.holds for figure in figures)
    rows = [
        f"| `{f.name}` | {f.value:g} | {'≥' if f.bound == '>=' else '≤'} {f.target:g} | {'holds' if f.holds else '**short**'} "
        f"| [{f.benchmark}](#{f.benchmark}) |"
        for f in figures
    ]
    exponents = [f"| {words} | {value} | [{o.name}](#{o.name}) |" for o in outputs for words, value in EXPONENT.findall(o.text)]
    parts = [
        HEAD,
        f"{held} of {len(figures)} figures hold.\n",
        "\n".join(["| figure | measured | target | | from |", "|---|---|---|---|---|", *rows, ""]),
        "![How far each figure is from its target](benchmarks/margins.svg)\n",
        "## How cost grows\n",
        "An exponent of 1 is linear, one of 0 does not grow.\n",
        "\n".join(["| what | exponent | from |", "|---|---|---|", *exponents, ""]),
        *(["![What grows, in multiples of its smallest size](benchmarks/growth.svg)\n"] if grows else []),
        *(section(output) for output in outputs),
    ]
    return "\n".join(parts)


def section(output: Output) -> str:
    lines = "\n".join(line for line in output.text.splitlines() if not line.startswith("figure "))
    return f"## {output.name}\n\n{output.purpose}\n\n{output.date}, on {output.machine}\n\n```text\n{lines}\n```\n"


def growth(outputs: list[Output]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for output in outputs:
        for words, pattern in GROWTH.items():
            points = [(float(found["size"]), float(found["takes"])) for found in pattern.finditer(output.text)]
            if len(points) > 1:
                yield words, points


def draw_margins(figures: list[Figure], to: Path) -> None:
    drawing, axes = pyplot.subplots(figsize=(8, 0.6 + 0.26 * len(figures)), layout="constrained")
    names, margins = [figure.name for figure in figures], [figure.margin for figure in figures]
    axes.barh(names, [margin - 1 for margin in margins], left=1, color=["#2e7d5b" if f.holds else "#b3261e" for f in figures])
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(*margins, 0.5) / 1.2, max(*margins, 2) * 1.2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("times better than its target")
    axes.invert_yaxis()
    save(drawing, to)


def draw_growth(growing: dict[str, list[tuple[float, float]]], to: Path) -> None:
    drawing, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for words, points in growing.items():
        (size, takes), *_ = points
        axes.loglog([s / size for s, _ in points], [t / takes for _, t in points], marker="o", label=words)
    widest = max(points[-1][0] / points[0][0] for points in growing.values())
    axes.loglog([1, widest], [1, widest], color="#888888", linestyle="--", label="linear")
    axes.set_xlabel("size, in multiples of the smallest")
    axes.set_ylabel("takes, in multiples")
    axes.legend(frameon=False)
    save(drawing, to)


def save(drawing: "pyplot.Figure", to: Path) -> None:
    drawing.savefig(to, metadata={"Date": None})
    pyplot.close(drawing)


if __name__ == "__main__":
    main()
