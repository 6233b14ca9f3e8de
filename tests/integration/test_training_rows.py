"""What a training learns from: rows, their tokens, and which of them count."""

from pathlib import Path

import pytest
import torch

from reflux.artifacts import Artifacts
from reflux.errors import Terminal
from reflux.records import Message
from services.gpu_trainer import adapters
from services.gpu_trainer.chat import encode, encode_prompt
from services.gpu_trainer.models import Bench
from services.gpu_trainer.rows import training_rows
from services.gpu_trainer.train import Trainer, config, train
from tests import tiny_student
from tests.trainer_tasks import (
    SYSTEM,
    correction,
    example,
    lines,
    make_spec,
    make_task,
    taught,
    train_command,
)

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


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

    # Token by token: it counts if and only if its characters lie within what an assistant turn wrote, its end included.
    written = []
    for message in messages:
        at = whole.index(message.content)
        if message.role == "assistant":
            written.append(range(at, at + len(message.content + "<|im_end|>")))
    spans = student.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    assert spans.input_ids[: len(row.ids)] == list(row.ids)
    for (start, _), mine in zip(spans.offset_mapping, row.learnt, strict=False):
        assert mine == any(start in place for place in written)


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


def test_plain_text_is_learnt_as_a_whole(tiny: Path, bench: Bench, store: Artifacts) -> None:
    student = bench.load(make_task(store, make_spec(tiny), train_command()))
    text = "static uint32_t gate_open_ns(void);"
    row = encode(student.tokenizer, student.stop_ids, "r", [Message(role="assistant", content=text)], 1024)
    assert student.tokenizer.decode(row.ids) == text + "<|im_end|>"
    assert all(row.learnt)


def test_a_long_prompt_loses_its_end_but_not_its_frame(tiny: Path, bench: Bench, store: Artifacts) -> None:
    student = bench.load(make_task(store, make_spec(tiny), train_command()))
    ids, cut = encode_prompt(student.tokenizer, SYSTEM, "clamp the sample " * 200, 100)
    text = student.tokenizer.decode(ids)
    assert cut
    assert len(ids) <= 100
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nclamp the sample")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


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


def test_a_row_that_begins_with_the_assistant_is_named(tiny: Path, store: Artifacts) -> None:
    row = example(1)
    store.write_rows("in/train.jsonl", [row, row.model_copy(update={"messages": row.messages[::-1]})])
    task = make_task(store, make_spec(tiny), train_command())
    with pytest.raises(Terminal, match="line 2: it begins with the assistant's turn"):
        training_rows(task, train_command())


def test_rows_that_are_too_long_are_cut_and_counted(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny, training={"max_length": 45, "max_steps": 1}), train_command())
    event = train(task, bench)
    tokenizer = bench.load(task).tokenizer
    whole = [tokenizer.apply_chat_template([m.model_dump() for m in example(n).messages]).input_ids for n in range(12)]
    assert event.rows_truncated == sum(len(ids) - 1 > 45 for ids in whole) > 0  # but for the template's last line break
    assert f"{event.rows_truncated} of 12 rows were cut to 45 tokens" in lines(task)


def test_a_template_that_refuses_a_conversation_is_said(tiny: Path, store: Artifacts) -> None:
    student = Bench().load(make_task(store, make_spec(tiny), train_command()))
    system, user, assistant = (Message(role=role, content=role) for role in ("system", "user", "assistant"))
    refuse = "{% if message.role == 'system' or loop.length > 2 %}{{ raise_exception('one at a time') }}{% endif %}"
    student.tokenizer.chat_template = tiny_student.CHAT_TEMPLATE.replace("%}<|im_start|>", "%}" + refuse + "<|im_start|>", 1)
    row = encode(student.tokenizer, student.stop_ids, "r", [system, user, assistant], 1024)
    assert student.tokenizer.decode(row.ids).startswith("<|im_start|>user\nsystem\n\nuser<|im_end|>")
    with pytest.raises(Terminal, match="refuses a conversation of user, assistant, user: one at a time") as caught:
        encode(student.tokenizer, student.stop_ids, "r", [user, assistant, user, assistant], 1024)
    assert caught.value.code == "not_supported"
