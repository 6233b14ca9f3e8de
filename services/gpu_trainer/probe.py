"""Prints, as JSON, what this machine offers to training. A process of its own, so that whoever asks need not import torch."""

import json
import os
import shutil
import sys
from importlib import metadata
from typing import Any

import torch

from services.gpu_trainer.machine import processes


def probe() -> dict[str, Any]:
    """Memory and disk in GB (10^9 bytes)."""
    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "bitsandbytes": metadata.version("bitsandbytes"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage("/").free / 1e9, 1),
        "training_processes": processes(),
        "cuda": cuda,
        "gpus": torch.cuda.device_count(),
        "gpu": None,
        "gpu_memory_gb": None,
        "bf16": False,
        "tf32": False,
        "cudnn": None,
    }
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
            "bf16": torch.cuda.is_bf16_supported(),
            "tf32": properties.major >= 8,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return found


if __name__ == "__main__":
    json.dump(probe(), sys.stdout)
