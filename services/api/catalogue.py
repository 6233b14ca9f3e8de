"""Students and methods to choose from, with what they need. Any other causal model of the hub, or a folder, may be named too.

The sizes are those of the models' own config.json; the memory is reflux.memory's estimate for a GPU that computes in
bfloat16, one row of 4096 tokens at a time: within a third of what was measured on a CPU.
"""

from typing import Any

from reflux import presets
from reflux.memory import Shape, need
from reflux.spec import RunSpec
from reflux.views import MethodView, ModelView, PresetView

PRESETS = [
    PresetView(id=name, kind=preset.kind, title=preset.title, description=preset.description, spec=preset.spec)
    for name, preset in presets.PRESETS.items()
]
METHODS = [preset for preset in PRESETS if preset.kind == "method"]

NAMES = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads")

# hub id: title, licence, gated, the sizes in the order of NAMES, tokens of context, a head's size where it is not hidden / heads
STUDENTS: dict[str, tuple[str, str, bool, tuple[int, ...], int, int | None]] = {
    "ibm-granite/granite-8b-code-instruct-128k": (
        "Granite 8B Code Instruct",
        "Apache-2.0",
        False,
        (36, 4096, 14336, 49152, 32, 8),
        128000,
        None,
    ),
    "google/gemma-2-2b-it": ("Gemma 2 2B", "Gemma", True, (26, 2304, 9216, 256000, 8, 4), 8192, 256),
    "google/gemma-3-270m-it": ("Gemma 3 270M", "Gemma", True, (18, 640, 2048, 262144, 4, 1), 32768, 256),
    "google/gemma-3-1b-it": ("Gemma 3 1B", "Gemma", True, (26, 1152, 6912, 262144, 4, 1), 32768, 256),
    "google/gemma-3-4b-it": ("Gemma 3 4B", "Gemma", True, (34, 2560, 10240, 262208, 8, 4), 131072, 256),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (
        "SmolLM2 1.7B Instruct",
        "Apache-2.0",
        False,
        (24, 2048, 8192, 49152, 32, 32),
        8192,
        None,
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (
        "SmolLM2 135M Instruct, for trying things out on a CPU",
        "Apache-2.0",
        False,
        (30, 576, 1536, 49152, 9, 3),
        8192,
        None,
    ),
}


def models() -> list[ModelView]:
    return [_model(name) for name in STUDENTS]


def memory_gb(spec: RunSpec, *, bf16: bool = True) -> float | None:
    """What training by the spec needs at its peak, in GB of 10^9 bytes; None for a student that is not listed."""
    shape = shape_of(spec.student.model)
    return round(need(shape, spec, bf16=bf16).total, 1) if shape else None


def shape_of(name: str) -> Shape | None:
    """The sizes of a listed student, or of a folder or a package's file that is called so."""
    known = next((student for student in STUDENTS if student.rpartition("/")[2] in name), None)
    if known is None:
        return None
    *_, sizes, context, head = STUDENTS[known]
    config: dict[str, Any] = dict(zip(NAMES, sizes, strict=True))
    return Shape.of(config | {"max_position_embeddings": context, "head_dim": head})


def _model(name: str) -> ModelView:
    title, licence, gated, _, context, _ = STUDENTS[name]
    shape = shape_of(name)
    assert shape is not None
    return ModelView(
        model=name,
        title=title,
        parameters=round((shape.linear + shape.other) / 1e9, 3),
        context=context,
        licence=licence,
        gated=gated,
        fits=[MethodView(preset=p.id, gpu_memory_gb=memory_gb(_spec(name, p)) or 0.0) for p in METHODS],
    )


def _spec(name: str, preset: PresetView) -> RunSpec:
    smallest = {"data": {"sources": [{"uri": "file:///"}]}}
    return RunSpec.model_validate(smallest | preset.spec | {"student": {"model": name, **preset.spec["student"]}})
