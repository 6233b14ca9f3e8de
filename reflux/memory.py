"""What a training is going to need in memory, estimated from the student's config.json and the spec. Pure arithmetic.

    weights     NF4: half a byte a parameter of the linear layers, the rest in fp32; else 2 or 4 bytes
    training    16 bytes a trained parameter: itself, its gradient, AdamW's two moments, each in fp32
    activations what the backward pass needs again, for one batch of rows of max_length tokens; and the head's logits

The estimate is of the peak; docs/training.md holds it against measured ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from reflux.spec import RunSpec

NF4_BYTES = 0.516  # 4 bits, and a constant for each 64 weights in 8 bits, and one for 256 of those in 32
KEPT_HIDDEN, KEPT_INNER = 10, 4  # numbers kept a token and layer, in units of `hidden` and `intermediate`
HEAD_TOKENS, HEAD_COPIES = 4096, 4  # TRL takes the logits of so many tokens at a time
LIBRARIES_GB = 1.2  # code, and a GPU's context


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that decide its memory."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    attention: int  # heads · size of a head
    keys: int  # key and value heads · size of a head
    context: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self | None:
        """From the contents of config.json; None for an architecture that says it in other words."""
        config = config.get("text_config", config)
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            size = int(config.get("head_dim") or hidden // heads)
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                vocabulary=int(config["vocab_size"]),
                attention=heads * size,
                keys=int(config.get("num_key_value_heads") or heads) * size,
                context=int(config["max_position_embeddings"]),
                tied=bool(config.get("tie_word_embeddings", True)),
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def linear_layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of one block: q, k, v, o, gate, up, down."""
        h, i, a, k = self.hidden, self.intermediate, self.attention, self.keys
        return [(h, a), (h, k), (h, k), (a, h), (h, i), (h, i), (i, h)]

    @property
    def linear(self) -> int:
        """Parameters of the linear layers, the head left out."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_layers)

    @property
    def other(self) -> int:
        """Parameters of embeddings, head and norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden


@dataclass(frozen=True)
class Need:
    """Gigabytes (10^9 bytes)."""

    weights: float
    training: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.training + self.activations + LIBRARIES_GB


def need(shape: Shape, spec: RunSpec, *, bf16: bool, processes: int = 1) -> Need:
    """At most, for the spec's batch of the longest rows. `bf16`: whether the device computes in it.

    `processes`: how many train together. With FSDP each holds its part, and one block, or the embeddings, as a whole.
    """
    student, training = spec.student, spec.training
    width = 4 if student.dtype == "float32" or (student.dtype == "auto" and not bf16) else 2
    if student.method == "full":
        weights = float((shape.linear + shape.other) * width)
        trained = shape.linear + shape.other
    else:
        nf4 = student.quantization == "nf4"
        weights = shape.linear * NF4_BYTES + shape.other * 4 if nf4 else (shape.linear + shape.other) * width
        trained = shape.layers * spec.lora.r * sum(inputs + outputs for inputs, outputs in shape.linear_layers)
    tokens = training.batch_size * min(training.max_length, shape.context)
    between = 4 if student.quantization == "nf4" else width  # in training, an NF4 base's layers hand on fp32
    layer = (KEPT_HIDDEN * shape.hidden + KEPT_INNER * shape.intermediate) * between
    kept = layer + shape.layers * shape.hidden * between if training.gradient_checkpointing else layer * shape.layers
    head = HEAD_COPIES * min(tokens, HEAD_TOKENS) * shape.vocabulary * width
    parts = processes if training.sharding == "fsdp" else 1
    whole = max(shape.linear // shape.layers, shape.other) * width if parts > 1 else 0
    return Need((weights / parts + whole) / 1e9, 16 * trained / parts / 1e9, (tokens * kept + head) / 1e9)


def what_fits(shape: Shape, spec: RunSpec, *, bf16: bool, there_gb: float, processes: int = 1) -> str:
    """The smallest change of the spec with which the training fits into `there_gb`; "" if it fits as it is."""
    for change, changed in _smaller(spec, processes):
        needed = need(shape, changed, bf16=bf16, processes=processes).total
        if needed <= there_gb:
            return f"{change} would need about {needed:.1f} GB." if change else ""
    return "No setting would make it fit: choose a smaller student, or a larger GPU."


def _smaller(spec: RunSpec, processes: int) -> Iterator[tuple[str, RunSpec]]:
    """The spec as it is, then with one change after the other, each on top of those before."""
    settings = spec.training.model_dump()
    changes: list[str] = []

    def now() -> tuple[str, RunSpec]:
        return " with ".join(changes), spec.model_copy(update={"training": type(spec.training)(**settings)})

    yield now()
    if settings["batch_size"] > 1:
        settings |= {"accumulation": settings["accumulation"] * settings["batch_size"], "batch_size": 1}
        changes.append(f"training.batch_size: 1 (and training.accumulation: {settings['accumulation']})")
        yield now()
    if not settings["gradient_checkpointing"]:
        settings["gradient_checkpointing"] = True
        changes.append("training.gradient_checkpointing: true")
        yield now()
    if processes > 1 and settings["sharding"] == "none":
        settings["sharding"] = "fsdp"
        changes.append("training.sharding: fsdp")
        yield now()
    if spec.student.method != "qlora":
        spec = spec.model_copy(update={"student": spec.student.model_copy(update={"method": "qlora", "quantization": "nf4"})})
        changes.append("student.method: qlora")
        yield now()
    while settings["max_length"] > 512:
        settings["max_length"] = max(512, settings["max_length"] // 2)
        yield " with ".join([*changes, f"training.max_length: {settings['max_length']}"]), now()[1]
