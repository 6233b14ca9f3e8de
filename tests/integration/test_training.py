"""Training and generation with a tiny real student on the CPU."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reflux.artifacts import Artifacts
from reflux.commands import Command, ExportModel, Generate, Train
from reflux.errors import Stopped, Terminal
from reflux.records import Answer, Correction, Example, Lineage, Message, Prompt, TeacherAnswer, Verdict
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.gpu_trainer import adapters
from services.gpu_trainer.chat import encode, encode_prompt
from services.gpu_trainer.export import export_model
from services.gpu_trainer.generate import generate
from services.gpu_trainer.models import Bench
from services.gpu_trainer.rows import training_rows, validation_rows
from services.gpu_trainer.train import Trainer, config, encoded, train
from tests import tiny_student

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SYSTEM = "Answer with one C function."


@pytest.fixture(scope="module")
def tiny(ground: Path) -> Path:
    return tiny_student.make(ground / "tiny")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    store = Artifacts(f"file://{tmp_path}/store")
    store.write_rows("in/train.jsonl", [example(n) for n in range(12)])
    store.write_rows("in/val.jsonl", [example(n) for n in range(20, 24)])
    store.write_rows("in/prompts.jsonl", [prompt(n, "practice") for n in range(7)] + [prompt(n, "dev") for n in range(7, 10)])
    return store


def copied(store: Artifacts) -> Artifacts:
    """Another store with the same input and nothing else."""
    twin = Artifacts(store.url + "-twin")
    for path in store.paths("in"):
        twin.put(path, store.get(path))
    return twin


def example(number: int) -> Example:
    messages = (
        Message(role="user", content=f"Write a C function that returns the priority {number} of a frame."),
        Message(role="assistant", content=f"```c\nuint8_t priority(void)\n{{\n    return {number}U;\n}}\n```"),
    )
    return Example(id=f"e{number}", messages=messages, family=f"f{number}", lineage=Lineage(origin="source"))


def prompt(number: int, part: Any) -> Prompt:
    return Prompt(id=f"p{number}", text=f"Write a C function that clamps {'a sample ' * number}.", set=part, family=f"f{number}")


def make_spec(model: Path | str, **sections: dict[str, Any]) -> RunSpec:
    training = {
        "max_steps": 8,
        "batch_size": 2,
        "accumulation": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "log_steps": 2,
        "eval_steps": 4,
        "checkpoint_steps": 3,
        "max_length": 256,
        "gradient_checkpointing": False,
    }
    return RunSpec.model_validate(
        {
            "data": {"sources": [{"uri": "file:///sources"}]},
            "student": {"model": str(model), "method": "lora", "device": "cpu"} | sections.get("student", {}),
            "lora": {"r": 8, "alpha": 16},
            "prompts": {"system": SYSTEM},
            "training": training | sections.get("training", {}),
            "generation": {"max_new_tokens": 24, "batch_size": 4, "chunk_size": 2} | sections.get("generation", {}),
            "export": sections.get("export", {}),
        }
    )


def train_command(**fields: Any) -> Train:
    return Train(stage=Stage.TRAINING, epoch=1, train_path="in/train.jsonl", val_path="in/val.jsonl", **fields)


def generate_command(**fields: Any) -> Generate:
    fields = {"model": "student", "sets": ("practice", "dev"), "max_new_tokens": 24} | fields
    return Generate(stage=Stage.REFINING, epoch=1, prompts_path="in/prompts.jsonl", **fields)


def make_task(store: Artifacts, spec: RunSpec, command: Command, attempt: int = 1) -> Task:
    return Task(run_id="r1", command=command, spec=spec, artifacts=store, attempt=attempt)


class StoppedBy(Task):
    """A task that is asked to stop once a condition on what it reports holds."""

    def __init__(self, task: Task, when: Callable[[float], bool]) -> None:
        super().__init__(task.run_id, task.command, task.spec, task.artifacts, attempt=task.attempt)
        self.when = when

    def progress(self, done: float, total: float, note: str = "") -> None:
        super().progress(done, total, note)
        if self.when(done):
            self.stop = "pause"


def lines(task: Task) -> str:
    return "\n".join(line["line"] for line in task.drain()["logs"])


def weights(store: Artifacts, path: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(Path(store.url.removeprefix("file://")) / path / "adapter_model.safetensors")
    return tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Rows


def test_only_what_the_assistant_wrote_is_learnt(tiny: Path, bench: Bench, store: Artifacts) -> None:
    student = bench.load(make_task(store, make_spec(tiny), train_command()))
    messages = [
        Message(role="system", content=SYSTEM),
        Message(role="user", content="Clamp it."),
        Message(role="assistant", content="```c\nint a;\n```"),
        Message(role="user", content="Now wrap it."),
        Message(role="assistant", content="```c\nint b;\n```"),
    ]
    row = encode(student.tokenizer, student.stop_ids, "r", messages, 1024)
    learnt = [token for token, mine in zip(row.ids, row.learnt, strict=True) if mine]
    assert student.tokenizer.decode(learnt) == "```c\nint a;\n```<|im_end|>```c\nint b;\n```<|im_end|>"
    whole = student.tokenizer.apply_chat_template([m.model_dump() for m in messages], tokenize=False)
    assert student.tokenizer.decode(row.ids) + "\n" == whole
    prompt_ids, _ = encode_prompt(student.tokenizer, SYSTEM, "Clamp it.", 1024)
    assert list(row.ids[: len(prompt_ids)]) == prompt_ids
    assert not any(row.learnt[: len(prompt_ids)])


@pytest.mark.parametrize("packing", [False, True])
def test_trl_learns_just_these_tokens_from_each_row_alone(
    tiny: Path, bench: Bench, store: Artifacts, tmp_path: Path, packing: bool
) -> None:
    """Labels, padding, packing and loss of the trainer against the textbook: all logits of each row by itself."""
    task = make_task(store, make_spec(tiny, training={"batch_size": 3, "packing": packing}), train_command())
    student = bench.load(task)
    rows = [encode(student.tokenizer, student.stop_ids, f"r{n}", example(10**n).messages, 1024) for n in range(3)]
    expected, learnt = 0.0, []
    for row in rows:
        logs = student.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        expected -= sum(float(logs[i - 1, row.ids[i]]) for i in range(1, len(row.ids)) if row.learnt[i])
        learnt += [token for token, mine in zip(row.ids, row.learnt, strict=True) if mine]
    with adapters.trainable(student, task.spec, None) as model:
        trainer = Trainer(task, student, model, config(task, student, tmp_path, 3, validate=False), rows, [])
        (batch,) = trainer.get_train_dataloader()
        loss = trainer.compute_loss(model, batch) * sum(row.targets for row in rows)
    labels = batch["labels"][batch["labels"] != -100]
    assert sorted(labels.tolist()) == sorted(learnt)
    assert batch["input_ids"][batch["labels"] != -100].equal(labels)
    assert batch["input_ids"].shape[0] == (1 if packing else 3)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_student_without_a_chat_template_gets_the_plain_format(ground: Path, store: Artifacts) -> None:
    folder = tiny_student.make(ground / "plain", chat=False)
    student = Bench().load(make_task(store, make_spec(folder), train_command()))
    row = encode(student.tokenizer, student.stop_ids, "r", example(5).messages, 1024)
    text = student.tokenizer.decode(row.ids)
    assert text.startswith("<|user|>\nWrite a C function")
    assert "\n<|assistant|>\n```c\n" in text
    learnt = student.tokenizer.decode([token for token, mine in zip(row.ids, row.learnt, strict=True) if mine])
    assert learnt == example(5).messages[1].content + "<|im_end|>"


def test_a_long_prompt_loses_its_end_but_not_its_frame(tiny: Path, bench: Bench, store: Artifacts) -> None:
    student = bench.load(make_task(store, make_spec(tiny), train_command()))
    ids, cut = encode_prompt(student.tokenizer, SYSTEM, "clamp the sample " * 200, 100)
    text = student.tokenizer.decode(ids)
    assert cut
    assert len(ids) <= 100
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nclamp the sample")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def taught(number: int, text: str) -> TeacherAnswer:
    return TeacherAnswer(prompt_id=f"p{number}", prompt=prompt(number, "practice").text, text=text, model="teacher")


def correction(number: int, text: str, *, admitted: bool) -> Correction:
    verdict = Verdict(
        prompt_id=f"p{number}", overall=3, syntax=3, protocol=3, safety=3, style=3, compiles=False, code="", rubric="1"
    )
    attempt = Answer(prompt_id=f"p{number}", prompt="", text="bad")
    return Correction(
        prompt_id=f"p{number}",
        prompt=prompt(number, "practice").text,
        attempt=attempt,
        attempt_verdict=verdict,
        answer=taught(number, text),
        verdict=verdict,
        admitted=admitted,
    )


def test_the_latest_admitted_correction_replaces_what_was_taught(tiny: Path, store: Artifacts) -> None:
    store.write_rows("t.jsonl", [taught(1, "one"), taught(2, "two"), taught(3, "")])
    store.write_rows("c1.jsonl", [correction(1, "one corrected", admitted=True), correction(2, "two worse", admitted=False)])
    store.write_rows("c2.jsonl", [correction(1, "one corrected again", admitted=True)])
    command = train_command(taught_paths=("t.jsonl",), corrections_paths=("c1.jsonl", "c2.jsonl"))
    spec = make_spec(tiny, training={"max_examples": 5})
    rows = training_rows(make_task(store, spec, command), command)
    assert len([row for row in rows if row.id.startswith("e")]) == 5
    answers = {row.id: row.messages for row in rows if row.id.startswith("p")}
    assert {name: messages[-1].content for name, messages in answers.items()} == {"p1": "one corrected again", "p2": "two"}
    assert answers["p2"][0].content == SYSTEM


def test_a_bad_row_is_named_by_its_line(tiny: Path, store: Artifacts, bench: Bench) -> None:
    store.put("in/train.jsonl", example(1).model_dump_json().encode() + b'\n\n{"messages": [{"role": "user"}]}\n')
    with pytest.raises(Terminal, match=r"in/train.jsonl, line 3: messages.0.content: Field required") as caught:
        train(make_task(store, make_spec(tiny), train_command()), bench)
    assert caught.value.code == "invalid_dataset"


# Training


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
    assert any("tfevents" in path for path in store.paths(f"{task.folder}/tensorboard"))
    series = {name for point in task.drain()["metrics"] for name in point["values"]}
    assert {"loss", "val_loss", "learning_rate", "tokens_per_second", "grad_norm"} <= series


def test_a_short_training_still_reaches_its_learning_rate(tiny: Path, bench: Bench, store: Artifacts) -> None:
    training = {"max_steps": 3, "warmup_steps": 10, "log_steps": 1}
    task = make_task(store, make_spec(tiny, training=training), train_command())
    train(task, bench)
    rates = [point["values"]["learning_rate"] for point in task.drain()["metrics"] if "loss" in point["values"]]
    assert max(rates) == 1e-2


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
    """Of the machine's memory, this process may have little more than it has."""
    many = [example(n) for n in range(512)]
    store.write_rows("in/train.jsonl", many)
    task = make_task(store, make_spec(tiny, training={"batch_size": 512, "accumulation": 1, "max_steps": 2}), train_command())
    bench.load(task)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000, before[1]))
    try:
        event = train(task, bench)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert event.steps == 2
    assert "out of memory: going on with batches of 256" in lines(task)


def test_rows_that_are_too_long_are_cut_and_counted(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny, training={"max_length": 45, "max_steps": 1}), train_command())
    event = train(task, bench)
    assert event.rows_truncated > 0
    assert "were cut to 45 tokens" in lines(task)


def test_nf4_trains_and_answers_on_a_cpu(tiny: Path, store: Artifacts) -> None:
    bench = Bench()
    nf4 = {"method": "qlora", "quantization": "nf4"}
    spec = make_spec(tiny, student=nf4, training={"max_steps": 12, "gradient_checkpointing": True})
    task = make_task(store, spec, train_command())
    event = train(task, bench)
    losses = store.get_json(f"{task.folder}/metrics.json")["losses"]
    assert losses[-1] < 0.95 * losses[0]
    answers = generate(make_task(store, spec, generate_command(sets=("dev",), adapter_path=event.adapter_path)), bench)
    assert answers.tokens > 0
    weight = bench.load(task).model.model.layers[0].mlp.up_proj.weight
    assert type(weight).__name__ == "Params4bit"


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


# Generation


def answers_of(store: Artifacts, chunks: Any) -> dict[str, bytes]:
    return {chunk.name: store.get(chunk.path) for chunk in chunks}


def test_chunks_have_a_fixed_composition(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny), generate_command(samples=2, sets=("dev", "practice")))
    event = generate(task, bench)
    assert [(chunk.name, chunk.count) for chunk in event.chunks] == [
        *[(f"student-dev-{n:04d}", 2) for n in range(3)],
        *[(f"student-practice-{n:04d}", 2) for n in range(7)],
    ]
    rows = [row for chunk in event.chunks for row in store.read_rows(chunk.path, Answer)]
    assert [(row.prompt_id, row.sample) for row in rows] == [(f"p{n}", s) for n in [7, 8, 9, *range(7)] for s in (0, 1)]
    assert rows[0].text != rows[1].text
    assert all(0 < row.tokens <= 24 for row in rows)
    assert event.tokens == sum(row.tokens for row in rows)
    assert {chunk["path"] for chunk in task.drain()["chunks"]} == {chunk.path for chunk in event.chunks}


def test_a_stopped_generation_goes_on_to_the_same_texts(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny)
    stopped = StoppedBy(make_task(store, spec, generate_command()), when=lambda done: done > 5)
    with pytest.raises(Stopped):
        generate(stopped, bench)
    early = store.paths(stopped.pieces)
    assert len(early) == 2
    again = generate(make_task(store, spec, generate_command(), attempt=2), bench)
    twin_store = copied(store)
    twin = generate(make_task(twin_store, spec, generate_command()), bench)
    assert answers_of(store, again.chunks) == answers_of(twin_store, twin.chunks)


def test_stored_chunks_are_not_written_again(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny), generate_command())
    planted = Answer(prompt_id="p2", prompt="", text="planted", tokens=1).model_dump_json().encode() + b"\n"
    store.put(f"{task.pieces}/student-practice-0001.jsonl", planted)
    event = generate(task, bench)
    assert store.get(f"{task.pieces}/student-practice-0001.jsonl") == planted
    assert len(event.chunks) == 6


def test_a_prompt_gets_the_same_answer_in_another_batch(tiny: Path, bench: Bench, store: Artifacts) -> None:
    texts = []
    for batch in (1, 6):
        spec = make_spec(tiny, generation={"batch_size": batch, "chunk_size": 1})
        other = Artifacts(f"{store.url}-{batch}")
        other.put("in/prompts.jsonl", store.get("in/prompts.jsonl"))
        event = generate(make_task(other, spec, generate_command()), bench)
        texts.append(answers_of(other, event.chunks))
    assert texts[0] == texts[1]


def test_greedy_answers_are_those_of_the_library(tiny: Path, bench: Bench, store: Artifacts) -> None:
    """Left padding, positions, cache and merged adapter against `generate` of transformers with the adapter left as it is."""
    spec = make_spec(tiny, generation={"temperature": 0, "batch_size": 8, "chunk_size": 8})
    trained = train(make_task(store, spec, train_command()), bench)
    event = generate(make_task(store, spec, generate_command(sets=("practice",), adapter_path=trained.adapter_path)), bench)
    rows = [row for chunk in event.chunks for row in store.read_rows(chunk.path, Answer)]
    student = bench.load(make_task(store, spec, train_command()))
    folder = Path(store.url.removeprefix("file://")) / trained.adapter_path
    with adapters.trainable(student, spec, folder) as model:
        model.eval()
        for row in rows:
            ids, _ = encode_prompt(student.tokenizer, SYSTEM, row.prompt, 1000)
            made = model.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=24)[0, len(ids) :]
            assert row.text == student.tokenizer.decode(made, skip_special_tokens=True)


# Export and models


def test_the_merged_export_answers_like_the_adapter(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, export={"merge": True}, generation={"temperature": 0})
    trained = train(make_task(store, spec, train_command()), bench)
    command = ExportModel(stage=Stage.EXPORTING, epoch=1, adapter_path=trained.adapter_path)
    event = export_model(make_task(store, spec, command), bench)
    assert event.merged
    assert event.files == len(store.paths(event.path))
    ours = generate(make_task(store, spec, generate_command(adapter_path=trained.adapter_path)), bench)
    merged = Path(store.url.removeprefix("file://")) / event.path / "merged"
    other = Artifacts(store.url + "-merged")
    other.put("in/prompts.jsonl", store.get("in/prompts.jsonl"))
    plain = generate(make_task(other, make_spec(merged, generation={"temperature": 0}), generate_command()), Bench())
    assert answers_of(store, ours.chunks) == answers_of(other, plain.chunks)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/nowhere/at/all", "no config.json"),
        ("package:no-such-package/model.gguf", "is not installed"),
        ("package:pydantic/model.gguf", "has no GGUF file"),
        ("not a/valid/hub id", "no model"),
    ],
)
def test_a_missing_model_is_said_at_once(model: str, says: str, store: Artifacts) -> None:
    with pytest.raises(Terminal, match=says) as caught:
        Bench().load(make_task(store, make_spec(model), train_command()))
    assert caught.value.code == "model_not_found"
    assert caught.value.hint


def test_a_gpu_that_is_not_there_is_said(tiny: Path, store: Artifacts) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(Terminal) as caught:
        Bench().load(make_task(store, make_spec(tiny, student={"device": "cuda"}), train_command()))
    assert caught.value.code == "gpu_missing"
