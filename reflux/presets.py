"""Settings that go together, under a name for `preset:` in a spec. What the spec itself says wins.

The revisions are commits of the hub's repositories; a preset never changes to another one silently.
"""

from dataclasses import dataclass
from typing import Any, Literal

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Preset:
    """`spec` holds sections of a RunSpec. A `student` names a model too; a `method` goes with any."""

    kind: Literal["student", "method"]
    title: str
    description: str
    spec: Settings


def filled(data: dict[str, Any], preset: Preset) -> dict[str, Any]:
    """`data` with what it leaves open filled in. A model of one's own has none of the preset's revision."""
    result = dict(data)
    for section, fields in preset.spec.items():
        said = data.get(section, {})
        if isinstance(said, dict):
            result[section] = fields | said
    student = result.get("student", {})
    if isinstance(student, dict) and student.get("model") != preset.spec["student"].get("model"):
        result["student"] = {k: v for k, v in student.items() if k != "revision" or k in data["student"]}
    return result


def _student(
    title: str, description: str, model: str, revision: str, method: str, training: dict[str, Any], new_tokens: int
) -> Preset:
    student = {"model": model, "revision": revision, "method": method}
    return Preset(
        "student", title, description, {"student": student, "training": training, "generation": {"max_new_tokens": new_tokens}}
    )


PRESETS = {
    "smollm2-135m": _student(
        "SmolLM2 135M Instruct",
        "For trying things out, on a CPU too: it learns form, not a domain.",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "lora",
        {"batch_size": 4, "accumulation": 2, "max_length": 1024, "learning_rate": 5e-4, "gradient_checkpointing": False},
        256,
    ),
    "gemma-3-270m": _student(
        "Gemma 3 270M",
        "One narrow job with many examples, on any GPU. Gated: accept Google's terms, and set HF_TOKEN.",
        "google/gemma-3-270m-it",
        "ac82b4e820549b854eebf28ce6dedaf9fdfa17b3",
        "lora",
        {"batch_size": 4, "accumulation": 2, "max_length": 2048, "learning_rate": 2e-4},
        512,
    ),
    "gemma-3-1b": _student(
        "Gemma 3 1B",
        "Short answers in one domain, on a GPU of 16 GB. Gated: accept Google's terms, and set HF_TOKEN.",
        "google/gemma-3-1b-it",
        "dcc83ea841ab6100d6b47a070329e1ba4cf78752",
        "lora",
        {"batch_size": 2, "accumulation": 4, "max_length": 2048, "learning_rate": 2e-4},
        512,
    ),
    "gemma-3-4b": _student(
        "Gemma 3 4B",
        "Text alone is trained; its eyes stay as they are. On a GPU of 24 GB. Gated: accept Google's terms, and set HF_TOKEN.",
        "google/gemma-3-4b-it",
        "093f9f388b31de276ce2de164bdc2081324b9767",
        "qlora",
        {"batch_size": 1, "accumulation": 8, "max_length": 4096, "learning_rate": 2e-4},
        1024,
    ),
    "granite-8b": _student(
        "Granite 8B Code Instruct",
        "Code; what a run trains when it says nothing. On a GPU of 24 GB.",
        "ibm-granite/granite-8b-code-instruct-128k",
        "bed93d8de15bb9bb55cb1da10ae860e2883f4254",
        "qlora",
        {"batch_size": 1, "accumulation": 8, "max_length": 4096, "learning_rate": 2e-4},
        1024,
    ),
    "qlora": Preset(
        "method",
        "QLoRA",
        "The base in 4 bits, an adapter trained on it. The least memory; a little slower, and hardly worse.",
        {"student": {"method": "qlora"}, "lora": {"r": 32, "alpha": 64}, "training": {"learning_rate": 2e-4}},
    ),
    "lora": Preset(
        "method",
        "LoRA",
        "The base as it is, an adapter trained on it. For small students, and where there is memory; right on a CPU.",
        {"student": {"method": "lora"}, "lora": {"r": 32, "alpha": 64}, "training": {"learning_rate": 2e-4}},
    ),
    "full": Preset(
        "method",
        "Full fine-tuning",
        "Every weight is trained. Many times the memory, and much data, or the student forgets what it knew.",
        {"student": {"method": "full"}, "training": {"learning_rate": 1e-5}},
    ),
}
