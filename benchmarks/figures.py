"""What every benchmark prints: the machine it ran on, and a line for each figure. No benchmark itself."""

import os
import platform
from pathlib import Path
from typing import Literal


def machine(*versions: str) -> str:
    """`versions`: of the programs that are measured; left out, Python's."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in info if "model name" in line), "unknown processor")
    cores = f"{len(os.sched_getaffinity(0))} cores of {model}"
    return ", ".join((cores, f"Linux {platform.release()}", *(versions or (f"Python {platform.python_version()}",))))


def torch_machine(device: Literal["cpu", "cuda"]) -> str:
    import torch

    version = f"torch {torch.__version__}"
    return machine(version) if device == "cpu" else f"{torch.cuda.get_device_name()}, {version}"


def figure(name: str, value: float, bound: Literal["<=", ">="], target: float) -> None:
    holds = value <= target if bound == "<=" else value >= target
    print(f"figure {name} {value:.3f} target {bound}{target:g} {'holds' if holds else 'short'}")
