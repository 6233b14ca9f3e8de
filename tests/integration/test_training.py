"""Training with a tiny real student on the CPU: adapters, stops, checkpoints, trouble."""

import itertools
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reflux.artifacts import Artifacts
from reflux.errors import Stopped, Terminal
from reflux.records import Answer
from reflux.task import Task
from services.gpu_trainer import adapters, room
from services.gpu_trainer.child import carry_out
from services.gpu_trainer.generate import generate
from services.gpu_trainer.models import Bench
from services.gpu_trainer.rows import validation_rows
from services.gpu_trainer.train import Trainer, config, encoded, train
from tests import tiny_student
from tests.trainer_tasks import (
    StoppedBy,
    copied,
    example,
    generate_command,
    lines,
    little_memory,
    make_spec,
    make_task,
    same,
    train_command,
    weights,
)

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


SPEED = ("tokens_per_second", "step_seconds", "eta_seconds", "memory_gb", "peak_memory_gb")


def test_training_lowers_the_loss_and_stores_adapter_and_tokenizer(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny, training={"max_steps": 16}), train_command())
    event = train(task, bench)
    manifest = store.get_json(f"{task.folder}/metrics.json")
    assert manifest["losses"][-1] < 0.9 * manifest["losses"][0]
    assert event.val_loss is not None
    assert list(manifest["val_losses"]) == ["4", "8", "12", "16"]
    assert (event.steps, event.rows, event.rows_truncated) == (16, 12, 0)
    names = {path.removeprefix(event.adapter_path + "/") for path in store.paths(event.adapter_path)}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".md")) for name in names)
    records = EventAccumulator(str(Path(store.url.removeprefix("file://")) / task.folder / "tensorboard")).Reload()
    assert set(SPEED) | {"loss", "learning_rate", "grad_norm"} <= {
        tag.removeprefix("train/") for tag in records.Tags()["scalars"]
    }
    assert "eval/loss" in records.Tags()["scalars"]
    series = {name for point in task.drain()["metrics"] for name in point["values"]}
    assert {"loss", "val_loss", "learning_rate", "grad_norm"} <= series
    assert set(SPEED) <= series
    assert manifest["student"] == {"model": str(tiny), "revision": None}


def test_a_short_training_still_reaches_its_learning_rate(tiny: Path, bench: Bench, store: Artifacts) -> None:
    training = {"max_steps": 3, "warmup_steps": 10, "log_steps": 1}
    task = make_task(store, make_spec(tiny, training=training), train_command())
    train(task, bench)
    rates = [point["values"]["learning_rate"] for point in task.drain()["metrics"] if "loss" in point["values"]]
    assert max(rates) == 1e-2
    assert min(rates) > 0


def test_passes_are_counted_in_rows(tiny: Path, bench: Bench, store: Artifacts) -> None:
    training = {"max_steps": None, "epochs": 2, "batch_size": 2, "accumulation": 4}
    event = train(make_task(store, make_spec(tiny, training=training), train_command()), bench)
    assert event.steps == 2 * 2  # 12 rows, 8 a step


def test_short_rows_are_packed_into_fewer_steps(tiny: Path, bench: Bench, store: Artifacts) -> None:
    training = {"max_steps": None, "epochs": 1, "batch_size": 1, "accumulation": 1, "packing": True}
    event = train(make_task(store, make_spec(tiny, training=training), train_command()), bench)
    assert event.rows == 12
    assert 1 < event.steps < 12
    plain = training | {"packing": False}
    assert train(make_task(copied(store), make_spec(tiny, training=plain), train_command()), bench).steps == 12
    assert event.val_loss is not None


def test_the_base_is_untouched_and_stays_in_memory(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, training={"gradient_checkpointing": True})
    student = bench.load(make_task(store, spec, train_command()))
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    event = train(make_task(store, spec, train_command()), bench)
    generate(make_task(store, spec, generate_command(adapter_path=event.adapter_path)), bench)
    again = bench.load(make_task(store, spec, train_command()))
    assert again is student
    assert same(before, dict(student.model.state_dict()))
    assert not any(module._forward_hooks for module in student.model.modules())
    assert not student.model.is_activation_checkpointing
    assert "forward" not in vars(student.model)


def test_an_adapter_is_continued(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny)
    first = train(make_task(store, spec, train_command()), bench)
    command = train_command(adapter_path=first.adapter_path).model_copy(update={"epoch": 2})
    second = train(make_task(store, spec, command), bench)
    losses = [store.get_json(event.adapter_path.replace("/adapter", "/metrics.json"))["losses"] for event in (first, second)]
    assert losses[1][0] < losses[0][0]


def test_stop_saves_and_the_next_attempt_ends_like_the_undisturbed_twin(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, training={"gradient_checkpointing": True})
    stopped = StoppedBy(make_task(store, spec, train_command()), when=lambda done: done >= 5)
    with pytest.raises(Stopped, match="pause"):
        train(stopped, bench)
    assert f"{stopped.pieces}/checkpoint-5/manifest.json" in store.paths(stopped.pieces)
    assert any("tfevents" in path for path in store.paths(f"{stopped.folder}/tensorboard"))
    resumed = make_task(store, spec, train_command(), attempt=2)
    event = train(resumed, Bench())
    assert "going on from the checkpoint at step 5" in lines(resumed)
    twin_store = copied(store)
    twin = train(make_task(twin_store, spec, train_command()), bench)
    assert (event.train_loss, event.val_loss) == (twin.train_loss, twin.val_loss)
    assert same(weights(store, event.adapter_path), weights(twin_store, twin.adapter_path))


@pytest.mark.parametrize(("call", "step"), [(18, 3), (22, 4)], ids=["first step of a pass", "another"])
def test_a_stop_does_not_wait_for_a_steps_other_batches(tiny: Path, bench: Bench, store: Artifacts, call: int, step: int) -> None:
    """A step reports when it begins, after each batch but the last, and at its end: five times here."""
    spec = make_spec(tiny, training={"batch_size": 1, "accumulation": 4, "eval_steps": 100, "checkpoint_steps": 100})
    calls = itertools.count(1)
    stopped = StoppedBy(make_task(store, spec, train_command()), when=lambda _: next(calls) == call)
    with pytest.raises(Stopped):
        train(stopped, bench)
    assert next(calls) == call + 1
    assert f"checkpoint at step {step}" in lines(stopped)
    event = train(make_task(store, spec, train_command(), attempt=2), bench)
    twin_store = copied(store)
    twin = train(make_task(twin_store, spec, train_command()), bench)
    assert event.train_loss == twin.train_loss
    assert same(weights(store, event.adapter_path), weights(twin_store, twin.adapter_path))


def test_a_stop_before_the_first_step_saves_nothing(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = StoppedBy(make_task(store, make_spec(tiny), train_command()), when=lambda _: True)
    with pytest.raises(Stopped):
        train(task, bench)
    assert store.paths(task.pieces) == []


def test_at_the_runs_limit_what_was_learnt_is_an_adapter(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = StoppedBy(make_task(store, make_spec(tiny), train_command()), when=lambda done: done >= 5, why="limit")
    event = train(task, bench)
    assert event.steps == 5
    assert weights(store, event.adapter_path)
    assert "ended by the run's limit at step 5 of 8" in lines(task)


def test_a_stop_during_validation_loses_no_validation(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, training={"batch_size": 1})

    class Validating(StoppedBy):
        def metrics(self, step: int, **values: float) -> None:
            super().metrics(step, **values)
            self.when = lambda done: done == 4  # the next report of step 4 comes out of its validation

    with pytest.raises(Stopped):
        train(Validating(make_task(store, spec, train_command()), when=lambda _: False), bench)
    event = train(make_task(store, spec, train_command(), attempt=2), bench)
    assert list(store.get_json(event.adapter_path.replace("/adapter", "/metrics.json"))["val_losses"]) == ["4", "8"]


def test_two_checkpoints_are_kept(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny, training={"max_steps": 10, "checkpoint_steps": 2}), train_command())
    train(task, bench)
    kept = {path.removeprefix(task.pieces + "/").split("/")[0] for path in store.paths(task.pieces)}
    assert kept == {"checkpoint-6", "checkpoint-8"}


def test_where_disk_is_scarce_old_checkpoints_go_first(tiny: Path, bench: Bench, store: Artifacts) -> None:
    training = {"max_steps": 10, "checkpoint_steps": 2}
    spec = make_spec(tiny, training=training, limits={"min_disk_gb": 1e9})
    past = make_task(store, spec, train_command().model_copy(update={"epoch": 0}))
    store.put(f"{past.pieces}/checkpoint-100/model.safetensors", b"of an epoch that is over")
    task = make_task(store, spec, train_command())
    event = train(task, bench)
    assert event.steps == 10
    assert store.paths(past.pieces) == []
    assert "old checkpoints dropped" in lines(task)
    kept = {path.removeprefix(task.pieces + "/").split("/")[0] for path in store.paths(task.pieces)}
    assert kept == {"checkpoint-6", "checkpoint-8"}  # before 8 was written, there was 6 alone


def test_a_full_disk_is_said_and_tried_again(tiny: Path, bench: Bench, store: Artifacts) -> None:
    class OnFullDisk(Task):
        def metrics(self, *_: int, **__: float) -> None:
            Path("/dev/full").write_text("something")

    task = make_task(store, make_spec(tiny), train_command())
    told = carry_out(OnFullDisk(task.run_id, task.command, task.spec, store), bench, train)
    assert (told["failure"]["code"], told["failure"]["error_class"]) == ("disk_low", "retriable")


def test_a_finished_adapter_is_not_trained_again(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny)
    first = train(make_task(store, spec, train_command()), bench)
    second = make_task(store, spec, train_command(), attempt=2)
    assert train(second, bench) == first
    assert second.drain()["metrics"] == []


@pytest.mark.parametrize("packing", [False, True])
def test_a_diverging_training_halts_and_names_its_rows(tiny: Path, bench: Bench, store: Artifacts, packing: bool) -> None:
    training = {"learning_rate": 1e38, "max_steps": 6, "packing": packing}
    task = make_task(store, make_spec(tiny, training=training), train_command())
    with pytest.raises(Terminal, match=r"At step \d the .* was (nan|inf) \(rows e\d+") as caught:
        train(task, bench)
    assert caught.value.code == "nan_loss"
    assert "memory" in lines(task)


def test_early_stop_takes_the_best_weights(tiny: Path, bench: Bench, store: Artifacts, tmp_path: Path) -> None:
    """A learning rate that ruins the student: validation is best near the start, before the stop, and those weights are left."""
    training = {"learning_rate": 3.0, "warmup_steps": 0, "max_steps": 40, "eval_steps": 1, "early_stop_patience": 2}
    spec = make_spec(tiny, training=training)
    with pytest.raises(Stopped):
        train(StoppedBy(make_task(store, spec, train_command()), when=lambda done: done >= 2), bench)
    task = make_task(store, spec, train_command(), attempt=2)
    event = train(task, bench)
    validations = store.get_json(f"{task.folder}/metrics.json")["val_losses"]
    best = min(validations, key=validations.get)
    assert event.steps == int(best) + 2 < 40
    assert f"stopped early at step {event.steps}: validation was best at step {best}" in lines(task)

    student = bench.load(task)
    held_out = encoded(task, student, validation_rows(task, train_command()))
    folder = Path(store.url.removeprefix("file://")) / event.adapter_path
    with adapters.trainable(student, spec, folder) as model:
        trainer = Trainer(task, student, model, config(task, student, tmp_path, 2, validate=True), held_out, held_out)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(validations[best])

    twin_store = copied(store)
    at_the_end = StoppedBy(make_task(twin_store, spec, train_command()), when=lambda done: done >= event.steps)
    assert train(at_the_end, bench).val_loss == event.val_loss
    assert same(weights(store, event.adapter_path), weights(twin_store, event.adapter_path.replace("attempt-2", "attempt-1")))


def test_a_batch_that_does_not_fit_into_memory_is_halved(tiny: Path, bench: Bench, store: Artifacts) -> None:
    many = [example(n) for n in range(512)]
    store.write_rows("in/train.jsonl", many)
    task = make_task(store, make_spec(tiny, training={"batch_size": 512, "accumulation": 1, "max_steps": 2}), train_command())
    bench.load(task)
    with little_memory(1_000_000_000):
        event = train(task, bench)
    assert event.steps == 2
    assert "out of memory: going on with batches of 256" in lines(task)


NF4 = {"method": "qlora", "quantization": "nf4"}


def test_the_best_weights_are_kept_beside_the_last(tiny: Path, bench: Bench, store: Artifacts) -> None:
    training = {"learning_rate": 3.0, "warmup_steps": 0, "max_steps": 40, "eval_steps": 1, "early_stop_patience": 99}
    task = make_task(store, make_spec(tiny, training=training), train_command())
    event = train(StoppedBy(task, when=lambda done: done >= 6, why="limit"), bench)
    manifest = store.get_json(f"{task.folder}/metrics.json")
    assert manifest["best_step"] < event.steps
    best = make_spec(tiny, training={"learning_rate": 1e-12, "max_steps": 1, "eval_steps": 1})
    command = train_command(adapter_path=f"{task.folder}/best").model_copy(update={"epoch": 2})
    assert train(make_task(store, best, command), bench).val_loss == pytest.approx(min(manifest["val_losses"].values()))
    assert not same(weights(store, f"{task.folder}/best"), weights(store, event.adapter_path))


@pytest.fixture(scope="module")
def nf4_bench() -> Bench:
    return Bench()


def test_nf4_trains_and_answers_on_a_cpu(tiny: Path, store: Artifacts, nf4_bench: Bench) -> None:
    spec = make_spec(tiny, student=NF4, training={"max_steps": 12, "gradient_checkpointing": True})
    task = make_task(store, spec, train_command())
    student = nf4_bench.load(task)
    generate(make_task(store, spec, generate_command(sets=("practice",))), nf4_bench)  # no gradient may be lost after it
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    event = train(task, nf4_bench)
    losses = store.get_json(f"{task.folder}/metrics.json")["losses"]
    assert losses[-1] < 0.95 * losses[0]
    answers = generate(make_task(store, spec, generate_command(sets=("dev",), adapter_path=event.adapter_path)), nf4_bench)
    assert answers.tokens > 0
    assert nf4_bench.load(task) is student
    assert same(before, dict(student.model.state_dict()))
    assert type(student.model.model.layers[0].mlp.up_proj.weight).__name__ == "Params4bit"


def test_nf4_goes_on_along_the_undisturbed_twins_losses(tiny: Path, store: Artifacts, nf4_bench: Bench) -> None:
    spec = make_spec(tiny, student=NF4)
    with pytest.raises(Stopped):
        train(StoppedBy(make_task(store, spec, train_command()), when=lambda done: done >= 5), nf4_bench)
    twin_store = copied(store)
    tasks = make_task(store, spec, train_command(), attempt=2), make_task(twin_store, spec, train_command())
    for task in tasks:
        train(task, nf4_bench)
    ours, twins = (task.artifacts.get_json(f"{task.folder}/metrics.json")["losses"] for task in tasks)
    assert ours == pytest.approx(twins, abs=1e-3)


def test_a_training_on_nf4_has_its_norms_in_fp32_and_gives_them_back(tiny: Path, store: Artifacts) -> None:
    spec = make_spec(tiny, student=NF4 | {"dtype": "bfloat16"})
    student = Bench().load(make_task(store, spec, train_command()))
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    norm = student.model.model.norm
    assert norm.weight.dtype == torch.bfloat16
    with adapters.trainable(student, spec, None) as model:
        assert norm.weight.dtype == student.model.get_input_embeddings().weight.dtype == torch.float32
        trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
        assert trained == {torch.float32}
    assert norm.weight.dtype == torch.bfloat16
    assert same(before, dict(student.model.state_dict()))


def test_what_a_training_needs_is_said_before_it_begins(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny), train_command())
    room.report(task, bench.load(task))
    assert "the training needs about" in lines(task)
    huge = make_task(store, make_spec(tiny, training={"batch_size": 10_000_000}), train_command())
    room.report(huge, bench.load(huge))
    assert "training.batch_size: 1 (and training.accumulation: 20000000) would need about" in lines(huge)


def test_full_fine_tuning_trains_all_weights_and_leaves_the_base(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, student={"method": "full"}, training={"learning_rate": 1e-3})
    before = {k: v.clone() for k, v in bench.load(make_task(store, spec, train_command())).model.state_dict().items()}
    event = train(make_task(store, spec, train_command()), bench)
    assert f"{event.adapter_path}/model.safetensors" in store.paths(event.adapter_path)
    base = generate(make_task(store, spec, generate_command(model="base", sets=("dev",))), bench)
    tuned = generate(make_task(store, spec, generate_command(sets=("dev",), adapter_path=event.adapter_path)), bench)
    texts = [[row.text for chunk in event.chunks for row in store.read_rows(chunk.path, Answer)] for event in (base, tuned)]
    assert texts[0] != texts[1]
    assert same(before, dict(bench.load(make_task(store, spec, train_command())).model.state_dict()))


def test_a_student_with_eyes_learns_words_alone(ground: Path, store: Artifacts) -> None:
    bench, folder = Bench(), tiny_student.make_gemma(ground / "gemma")
    for method in ("full", "lora"):
        spec = make_spec(folder, student={"method": method}, training={"max_steps": 2})
        task = make_task(store, spec, train_command())
        with adapters.trainable(bench.load(task), spec, None) as model:
            trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert any("language_model" in name for name in trained)
        assert not any("vision" in name or "projector" in name for name in trained)
    event = train(task, bench)
    assert generate(make_task(store, spec, generate_command(sets=("dev",), adapter_path=event.adapter_path)), bench).tokens > 0
