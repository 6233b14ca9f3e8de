"""Answers, questions and exports of a tiny real student on the CPU, and where models come from."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from reflux.artifacts import Artifacts
from reflux.commands import Chunk, ExportModel
from reflux.errors import Retriable, Stopped, Terminal
from reflux.records import Answer, Message, Prompt
from reflux.stages import Stage
from reflux.task import Task
from services.gpu_trainer import adapters, infer
from services.gpu_trainer.chat import encode_prompt
from services.gpu_trainer.export import export_model
from services.gpu_trainer.generate import Batch, generate
from services.gpu_trainer.models import Bench
from services.gpu_trainer.question import Asked, Question
from services.gpu_trainer.train import train
from tests import tiny_student
from tests.hub import GATED, MISSING, Hub, serving
from tests.trainer_tasks import (
    SYSTEM,
    StoppedBy,
    copied,
    generate_command,
    lines,
    little_memory,
    make_spec,
    make_task,
    prompt,
    train_command,
)

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


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


def test_prompts_of_like_length_are_written_together(tiny: Path, bench: Bench, store: Artifacts) -> None:
    rows = list(store.read_rows("in/prompts.jsonl", Prompt))
    random.Random(1).shuffle(rows)
    store.write_rows("in/prompts.jsonl", rows)
    event = generate(make_task(store, make_spec(tiny), generate_command(sets=("practice",))), bench)
    answered = [row.prompt_id for chunk in event.chunks for row in store.read_rows(chunk.path, Answer)]
    assert answered == [f"p{n}" for n in range(7)]


def test_out_of_memory_halves_the_batch_and_loses_no_answer(tiny: Path, bench: Bench, store: Artifacts) -> None:
    # So long that each large tensor asks the kernel for memory, and none comes out of what was freed before.
    text = prompt(60, "practice").text
    rows = [prompt(60, "practice").model_copy(update={"id": f"p{n}", "text": f"{n}. {text}"}) for n in range(512)]
    store.write_rows("in/prompts.jsonl", rows)
    spec = make_spec(tiny, generation={"batch_size": 512, "chunk_size": 64})
    task = make_task(store, spec, generate_command(sets=("practice",), max_new_tokens=1))
    bench.load(task)
    with little_memory(150_000_000):
        event = generate(task, bench)
    assert "out of memory: going on with 256 answers at a time" in lines(task)
    ids = [row.prompt_id for chunk in event.chunks for row in store.read_rows(chunk.path, Answer)]
    assert sorted(ids) == sorted(f"p{n}" for n in range(512))


def test_a_batch_grows_while_memory_allows() -> None:
    batch = Batch(16)
    batch.grow(before=10, peak=20, there_is=40)
    assert batch.size == 32
    batch.grow(before=10, peak=30, there_is=40)
    assert batch.size == 32
    batch.halve()
    batch.grow(before=10, peak=11, there_is=40)
    assert batch.size == 16  # 32 have failed


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


# Questions


def asked(question: Question, pieces: list[str], ends: list[Any]) -> Asked:
    return Asked(question, say=pieces.append, end=ends.append)


def test_a_question_is_answered_in_pieces_as_the_batch_would(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, generation={"temperature": 0})
    trained = train(make_task(store, spec, train_command()), bench)
    event = generate(make_task(store, spec, generate_command(sets=("dev",), adapter_path=trained.adapter_path)), bench)
    for row in store.read_rows(event.chunks[0].path, Answer):
        pieces: list[str] = []
        question = Question(run_id="r1", spec=spec, artifacts=store.url, text=row.prompt, adapter_path=trained.adapter_path)
        infer.answer(question, bench, pieces.append)
        assert "".join(pieces) == row.text
        assert len(pieces) > 1


def test_a_question_goes_before_the_batch_work_at_the_next_chunk(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, generation={"chunk_size": 2, "batch_size": 2})
    events: list[Any] = []
    question = Question(run_id="r2", spec=spec, artifacts=store.url, text="Write a C function.")

    class Asking(Task):
        def chunk_done(self, chunk: Chunk) -> None:
            super().chunk_done(chunk)
            if not events:
                bench.questions.put(asked(question, events, events))
            events.append(chunk.name)

    task = make_task(store, spec, generate_command())
    event = generate(Asking(task.run_id, task.command, spec, store), bench)
    names = [chunk.name for chunk in event.chunks]
    said = [place for place, thing in enumerate(events) if thing not in names]
    assert events[0] == names[0]
    assert said == list(range(1, len(said) + 1))
    assert events[said[-1]].finish_reason in ("stop", "length")
    twin_store = copied(store)
    twin = generate(make_task(twin_store, spec, generate_command()), bench)
    assert answers_of(store, event.chunks) == answers_of(twin_store, twin.chunks)


def test_a_question_that_fails_or_is_left_does_not_hold_up_the_work(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny)
    left: list[Any] = []
    ends: list[Any] = []
    question = Question(run_id="r2", spec=spec, artifacts=store.url, text="Write.")
    nowhere = question.model_copy(update={"spec": make_spec("/nowhere")})
    no_adapter = question.model_copy(update={"adapter_path": "not/there"})
    for each in (nowhere, no_adapter):
        bench.questions.put(asked(each, left, ends))

    def leave(piece: str) -> None:
        left.append(piece)
        leaving.given_up = True

    leaving = Asked(question, say=leave, end=ends.append)
    bench.questions.put(leaving)
    bench.questions.put(asked(question.model_copy(update={"text": "write " * 1000}), left, ends))
    infer.answer_waiting(bench)
    assert [end and end.code for end in ends] == ["model_not_found", "internal", None, "prompt_too_long"]
    assert len(left) == 1
    assert generate(make_task(store, spec, generate_command(sets=("dev",))), bench).tokens > 0


def test_a_conversation_is_answered_by_all_its_turns(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny)
    before = (Message(role="user", content="Write."), Message(role="assistant", content="int x;"))
    question = Question(run_id="r2", spec=spec, artifacts=store.url, text="Again.")
    pieces: list[str] = []
    alone = infer.answer(question, bench, pieces.append)
    together = infer.answer(question.model_copy(update={"before": before}), bench, pieces.append)
    student = bench.load(make_task(store, spec, generate_command()))
    turns = [
        {"role": "system", "content": SYSTEM},
        *(turn.model_dump() for turn in before),
        {"role": "user", "content": "Again."},
    ]
    ids = student.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert (together.usage.prompt, together.usage.prompt > alone.usage.prompt) == (len(ids), True)
    assert together.usage.answer <= 24


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


PLAIN = """
import json, sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
for text in texts:
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    made = model.generate(**ids, do_sample=False, max_new_tokens=24)[0, ids.input_ids.shape[1]:]
    print(json.dumps(tokenizer.decode(made, skip_special_tokens=True)))
"""


def test_the_export_answers_the_same_in_a_fresh_process_with_plain_libraries(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = make_spec(tiny, generation={"temperature": 0})
    trained = train(make_task(store, spec, train_command()), bench)
    event = export_model(make_task(store, spec, ExportModel(stage=Stage.EXPORTING, adapter_path=trained.adapter_path)), bench)
    ours = generate(make_task(store, spec, generate_command(sets=("dev",), adapter_path=trained.adapter_path)), bench)
    rows = [row for chunk in ours.chunks for row in store.read_rows(chunk.path, Answer)]
    turns = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": row.prompt}] for row in rows]
    tokenizer = bench.load(make_task(store, spec, train_command())).tokenizer
    texts = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
    folder = Path(store.url.removeprefix("file://")) / event.path / "adapter"
    command = [sys.executable, "-c", PLAIN, str(folder), json.dumps(texts)]
    plain = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    assert [json.loads(line) for line in plain.splitlines()] == [row.text for row in rows]


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


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    commits = {digit * 40: tiny_student.make(tmp_path / digit, hidden=hidden) for digit, hidden in (("1", 64), ("2", 32))}
    with serving(Hub(commits, main="1" * 40)) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        files = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


def test_a_run_keeps_the_commit_that_it_began_with(hub: Hub, store: Artifacts) -> None:
    first = make_task(store, make_spec("acme/tiny"), train_command())
    event = train(first, Bench())
    assert f"student acme/tiny at revision {hub.main}" in lines(first)
    hub.main = "2" * 40
    student = Bench().load(make_task(store, make_spec("acme/tiny"), train_command(), attempt=2))
    assert (student.revision, student.model.config.hidden_size) == ("1" * 40, 64)
    adapter = store.get_json(f"{event.adapter_path}/adapter_config.json")
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("acme/tiny", "1" * 40)
    another = Bench().load(make_task(copied(store), make_spec("acme/tiny"), train_command()))
    assert another.revision == "2" * 40


@pytest.mark.parametrize(
    ("model", "revision", "says"),
    [
        (GATED, None, "is gated, and this worker has no HF_TOKEN"),
        (MISSING, None, "no model"),
        ("acme/tiny", "3" * 40, "no revision 333"),
        ("acme/tiny", "v9", "no rev"),
    ],
)
def test_a_model_that_the_hub_refuses_is_said(hub: Hub, store: Artifacts, model: str, revision: str | None, says: str) -> None:
    spec = make_spec(model, student={"revision": revision})
    with pytest.raises(Terminal, match=says) as caught:
        Bench().load(make_task(store, spec, train_command()))
    assert caught.value.code == "model_not_found"
    assert "HF_TOKEN" in caught.value.hint


def test_a_hub_that_fails_is_asked_again_later(hub: Hub, store: Artifacts) -> None:
    hub.broken = True
    with pytest.raises(Retriable) as caught:
        Bench().load(make_task(store, make_spec("acme/tiny"), train_command()))
    assert caught.value.code == "provider_not_ready"
