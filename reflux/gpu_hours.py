"""How long a run will keep its GPU, before it begins: the tokens that it trains on and writes, against speeds. Pure arithmetic.

    trained    for each epoch: its steps, else its rows, of ROW_TOKENS
    written    for each epoch: an answer to each practice and dev prompt; at the end the test prompts, by base and best
    speeds     what earlier runs of this student told; else from the data sheet of the device: TRAINING_SHARE of its arithmetic in
               training; a decoding step reads all weights once, and costs LAYER_SECONDS a layer

On CPU cores the figures are measured (the example: 9 min estimated, 7 taken); the shares of GPUs are usual ones, not measured.
"""

from dataclasses import dataclass

from reflux.estimate import ASKED_AGAIN, FILLED, POOR, STILL_POOR
from reflux.memory import NF4_BYTES, Shape
from reflux.spec import RunSpec

ROW_TOKENS = 400  # of a function with its question
ROWS = 1000  # where the dataset is not made yet, and the spec sets no limit
TRAINING_SHARE, LAYER_SECONDS = 0.25, 0.0008
CPU_TRAINING, CPU_GENERATION = 20e9, 12e9  # operations a second and core, in fp32
GENERATED_AT_ONCE = 16  # at most, on a CPU
UNSURE_ROWS, UNSURE_SHEET, UNSURE_MEASURED = 3.0, 3.0, 1.5  # factors up and down

# Dense bfloat16 operations, and bytes of memory, a second: from the makers' data sheets.
DEVICES = {
    "B200": (2250e12, 8.0e12),
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.86e12),
    "4090": (165e12, 1.0e12),
    "A10": (125e12, 0.6e12),
    "L4": (121e12, 0.3e12),
    "T4": (65e12, 0.32e12),
}


@dataclass(frozen=True)
class Speeds:
    """Tokens a second, and `unsure`: by what factor they may be off."""

    training: float
    generation: float
    unsure: float


@dataclass(frozen=True)
class Tokens:
    """What a whole run trains on and writes. `assumed`: the rows are not known."""

    trained: float
    written: float
    assumed: bool


def tokens(spec: RunSpec) -> Tokens:
    training, refining, prompts = spec.training, spec.refining, spec.prompts
    row = min(ROW_TOKENS, training.max_length)
    distils = spec.recipe == "distill"
    epochs = refining.max_epochs if distils else 1
    taught = min(prompts.practice, spec.teaching.max_prompts or prompts.practice) if distils and spec.teaching.enabled else 0
    trained, corrected = 0.0, 0.0
    for epoch in range(epochs):
        rows = training.epochs * ((training.max_examples or ROWS) + taught + corrected)
        if training.max_steps is not None:
            rows = float(training.max_steps * training.batch_size * training.accumulation)
        trained += rows * row
        corrected += min(POOR * STILL_POOR**epoch * prompts.practice, refining.max_corrections) * (1 + ASKED_AGAIN)
    written = 0.0
    if distils:
        generation = spec.generation
        written = epochs * (prompts.practice + prompts.dev) * FILLED * generation.max_new_tokens
        if spec.evaluation.enabled:
            written += 2 * prompts.test * generation.test_samples * FILLED * generation.test_max_new_tokens
    return Tokens(trained, written, assumed=training.max_steps is None and training.max_examples is None)


def by_data_sheet(shape: Shape, spec: RunSpec, gpu: str | None, cpus: int) -> Speeds | None:
    """On the GPU of this name, or without one on so many cores. None for a GPU that is not listed."""
    parameters = shape.linear + shape.other
    # Forward, and backward through the activations; for trained weights their gradients; with checkpointing forward once more
    passes = 2 + 2 + (2 if spec.student.method == "full" else 0) + (2 if spec.training.gradient_checkpointing else 0)
    batch = spec.generation.batch_size
    if gpu is None:
        filled = min(batch, GENERATED_AT_ONCE) / GENERATED_AT_ONCE
        training = cpus * CPU_TRAINING / (passes * parameters)
        return Speeds(training, cpus * CPU_GENERATION * filled / (2 * parameters), UNSURE_SHEET)
    device = next((figures for name, figures in DEVICES.items() if name in gpu), None)
    if device is None:
        return None
    arithmetic, memory = device
    width = NF4_BYTES if spec.student.quantization == "nf4" else 2
    step = shape.layers * LAYER_SECONDS + (shape.linear * width + shape.other * 2) / memory
    return Speeds(arithmetic * TRAINING_SHARE / (passes * parameters), batch / step, UNSURE_SHEET)


def hours(spec: RunSpec, speeds: Speeds) -> tuple[float, float, float]:
    """Likely, at the least, at the most."""
    wanted = tokens(spec)
    likely = (wanted.trained / speeds.training + wanted.written / speeds.generation) / 3600
    unsure = speeds.unsure * (UNSURE_ROWS if wanted.assumed else 1.0)
    return likely, likely / unsure, likely * unsure
