"""A whole run in well under a minute: the example's corpus and recorded teacher, and a student of 0.2 million parameters."""

import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples" / "automotive"


def tiny_spec(student: Path, /, **changes: dict[str, Any]) -> dict[str, Any]:
    """A distillation of two epochs over six practice prompts; `changes` are merged into its sections."""
    spec: dict[str, Any] = {
        "name": "tiny",
        "student": {"model": str(student), "method": "lora", "dtype": "float32", "device": "cpu"},
        "lora": {"r": 8, "alpha": 16},
        "data": {"sources": [{"uri": f"file://{EXAMPLES}/corpus/tsn", "domain": "tsn"}]},
        "prompts": {"uri": f"file://{EXAMPLES}/prompts.jsonl", "practice": 6, "dev": 2, "test": 2},
        "teacher": {"provider": "recorded"},
        "teaching": {"shard_size": 3},
        "training": {
            "max_steps": 6,
            "accumulation": 1,
            "learning_rate": 2e-3,
            "warmup_steps": 1,
            "max_length": 512,
            "gradient_checkpointing": False,
            "log_steps": 1,
            "eval_steps": 3,
            "checkpoint_steps": 2,
            "max_examples": 4,
        },
        "generation": {"max_new_tokens": 32, "test_max_new_tokens": 32, "batch_size": 4, "chunk_size": 3, "test_samples": 1},
        "refining": {"max_epochs": 2},
        "limits": {"min_disk_gb": 0.5},
    }
    for section, change in changes.items():
        spec[section] = spec.get(section, {}) | change
    return spec


def rows(artifacts: Path, run_id: str, pattern: str) -> list[dict[str, Any]]:
    """All rows of a run's JSONL files that match `pattern`, in the files' order."""
    files = sorted((artifacts / "runs" / run_id).glob(pattern))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
