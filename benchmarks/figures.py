"""What every benchmark prints: the machine it ran on, and a line for each figure. No benchmark itself."""

import os
import platform
from pathlib import Path
from typing import Literal


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in info if "model name" in line), "unknown processor")
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"


def figure(name: str, value: float, bound: Literal["<=", ">="], target: float) -> None:
    holds = value <= target if bound == "<=" else value >= target
    print(f"figure {name} {value:.3f} target {bound}{target:g} {'holds' if holds else 'short'}")
