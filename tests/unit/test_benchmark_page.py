"""docs/benchmarks.md out of what benchmarks print, with the noise of libraries between."""

import os
import subprocess
import sys
from pathlib import Path

from tests.environment import ROOT

HOPS = """\
40 empty runs, on 2 cores of a processor, Linux 6.1.0-13-amd64, Python 3.11.7
       9.1 ms p50, 21.0 ms p99 of a hop; 0.412 s an empty run, with 100 runs stored
      10.0 ms p50, 25.0 ms p99 of a hop; 0.430 s an empty run, with 100000 runs stored
  hops grow with the runs stored with exponent 0.01
figure hop_p50_ms 9.100 target <=25 holds
figure hop_growth_exponent 0.010 target <=1 holds
"""
GENERATE = """\
Loading weights: 100%|##########| 272/272 [00:00<00:00, 15996.90it/s]
  warnings.warn(
32 answers of 64 tokens at most, 3 rounds, NVIDIA H100 80GB HBM3, torch 2.13.0
    2083.7 tokens/s  ours, 16 at a time
figure generation_vs_notebook 4.20 target >=5 short
"""


def test_the_page_holds_figures_growth_machines_and_dates(tmp_path: Path) -> None:
    outputs, docs = tmp_path / "outputs", tmp_path / "docs"
    outputs.mkdir()
    for name, text in {"hops": HOPS, "generate-h100": GENERATE, "log": "hops rc 0", "train": "Traceback"}.items():
        (outputs / f"{name}.txt").write_text(text)
        os.utime(outputs / f"{name}.txt", (1_790_000_000, 1_790_000_000))
    command = [sys.executable, str(ROOT / "benchmarks" / "page.py"), "--outputs", str(outputs), "--into", str(docs)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "2 benchmarks; short of their targets: generation_vs_notebook" in told
    page = (docs / "benchmarks.md").read_text()
    assert "2 of 3 figures hold." in page
    assert "| `generation_vs_notebook` | 4.2 | ≥ 5 | **short** | [generate-h100](#generate-h100) |" in page
    assert "| hops grow with the runs stored | 0.01 | [hops](#hops) |" in page
    assert "2026-09-21, on 2 cores of a processor, Linux 6.1, Python 3.11.7" in page
    assert "2083.7 tokens/s" in page
    assert "warnings.warn" not in page
    for drawing in ("margins", "growth"):
        assert "</svg>" in (docs / "benchmarks" / f"{drawing}.svg").read_text()


def test_without_outputs_it_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "page.py"), "--outputs", str(tmp_path), "--into", str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert "run `make bench` first" in made.stderr
