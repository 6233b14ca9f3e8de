"""The GPU worker's two processes: the child computes, the parent watches over it. Real processes, really killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.commands import Generate, Train
from reflux.errors import Retriable, Stopped, Terminal
from reflux.events import AdapterTrained
from reflux.records import Example, Lineage, Message, Prompt
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from reflux.worker import SHUTDOWN
from services.gpu_trainer.pipe import described
from services.gpu_trainer.question import Question
from services.gpu_trainer.tasks import HANDLERS, capabilities, infer

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


@pytest.fixture(scope="module")
def tiny(ground: Path) -> Path:
    """Made by another process: this one never imports torch, as a parent must not."""
    folder = ground / "tiny-for-processes"
    subprocess.run([sys.executable, "-m", "tests.tiny_student", str(folder)], check=True, cwd=ROOT, capture_output=True)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return filled(Artifacts(f"file://{tmp_path}/store"))


def filled(store: Artifacts) -> Artifacts:
    def example(number: int) -> Example:
        turns = (Message(role="user", content=f"Return {number}."), Message(role="assistant", content=f"return {number}U;"))
        return Example(id=f"e{number}", messages=turns, family=f"f{number}", lineage=Lineage(origin="source"))

    store.write_rows("in/train.jsonl", [example(n) for n in range(12)])
    store.write_rows("in/val.jsonl", [])
    prompts = [Prompt(id=f"p{n}", text=f"Return {n}.", set="practice", family=f"f{n}") for n in range(4)]
    store.write_rows("in/prompts.jsonl", prompts)
    return store


def spec(model: Path | str, *, steps: int = 60, stall_seconds: float = 300) -> RunSpec:
    return RunSpec.model_validate(
        {
            "data": {"sources": [{"uri": "file:///sources"}]},
            "student": {"model": str(model), "method": "lora", "device": "cpu"},
            "lora": {"r": 4, "alpha": 8},
            "training": {"max_steps": steps, "accumulation": 1, "checkpoint_steps": 5, "gradient_checkpointing": False},
            "generation": {"chunk_size": 2, "batch_size": 2},
            "limits": {"stall_seconds": stall_seconds},
        }
    )


def training(store: Artifacts, settings: RunSpec, attempt: int = 1) -> Task:
    command = Train(stage=Stage.TRAINING, epoch=1, train_path="in/train.jsonl", val_path="in/val.jsonl")
    return Task(run_id="r1", command=command, spec=settings, artifacts=store, attempt=attempt)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def has_checkpoint(task: Task) -> bool:
    return any(path.endswith("manifest.json") for path in task.artifacts.paths(task.pieces))


def child_of(parent: int) -> int | None:
    for thread in Path(f"/proc/{parent}/task").iterdir():
        for child in (thread / "children").read_text().split():
            if b"services.gpu_trainer.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def during(task: Task, do: Callable[[], None]) -> AdapterTrained:
    """Train in another thread, `do` something once there is a checkpoint; the outcome."""
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(HANDLERS["train"], task)
        eventually(lambda: has_checkpoint(task) or outcome.done())
        do()
        event = outcome.result(PATIENCE)
    assert isinstance(event, AdapterTrained)
    return event


def kill_child(how: signal.Signals) -> None:
    pid = child_of(os.getpid())
    assert pid
    os.kill(pid, how)


def test_a_killed_child_is_told_and_the_next_attempt_ends_like_the_undisturbed_twin(tiny: Path, store: Artifacts) -> None:
    first = training(store, spec(tiny))
    with pytest.raises(Retriable, match="The training process died") as caught:
        during(first, lambda: kill_child(signal.SIGKILL))
    assert (caught.value.code, "signal 9" in caught.value.message) == ("worker_lost", True)

    second = training(store, spec(tiny), attempt=2)
    resumed = HANDLERS["train"](second)
    assert any(line["line"].startswith("going on from the checkpoint") for line in second.drain()["logs"])
    twin = HANDLERS["train"](training(filled(Artifacts(store.url + "-twin")), spec(tiny)))
    assert isinstance(resumed, AdapterTrained)
    assert isinstance(twin, AdapterTrained)
    assert resumed.train_loss == twin.train_loss
    weights = f"{twin.adapter_path}/adapter_model.safetensors"
    assert store.get(f"{resumed.adapter_path}/adapter_model.safetensors") == Artifacts(store.url + "-twin").get(weights)


def test_the_child_stays_for_the_next_command_and_its_reports_arrive(tiny: Path, store: Artifacts) -> None:
    task = training(store, spec(tiny, steps=6))
    event = HANDLERS["train"](task)
    child = child_of(os.getpid())
    report = task.drain()
    assert report["progress"] == {"done": 6, "total": 6, "note": "steps"}
    assert {point["step"] for point in report["metrics"]} == {1, 6}
    assert isinstance(event, AdapterTrained)
    command = Generate(
        stage=Stage.REFINING,
        epoch=1,
        model="student",
        sets=("practice",),
        max_new_tokens=8,
        prompts_path="in/prompts.jsonl",
        adapter_path=event.adapter_path,
    )
    generating = Task(run_id="r1", command=command, spec=task.spec, artifacts=store)
    HANDLERS["generate"](generating)
    assert len(generating.drain()["chunks"]) == 2
    assert child_of(os.getpid()) == child


def test_a_question_is_answered_by_an_idle_child_and_between_chunks(tiny: Path, store: Artifacts) -> None:
    settings = spec(tiny)
    question = Question(run_id="r1", spec=settings, artifacts=store.url, text="Return 7.")
    answer = "".join(infer(question))
    assert answer
    next(filter(None, infer(question)))  # leaving off

    prompts = [Prompt(id=f"p{n}", text=f"Return {n}.", set="practice", family=f"f{n}") for n in range(200)]
    store.write_rows("in/prompts.jsonl", prompts)
    command = Generate(
        stage=Stage.REFINING, epoch=1, model="student", sets=("practice",), max_new_tokens=64, prompts_path="in/prompts.jsonl"
    )
    generating = Task(run_id="r1", command=command, spec=settings, artifacts=store)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(HANDLERS["generate"], generating)
        eventually(lambda: bool(store.paths(generating.pieces)) or outcome.done())
        assert "".join(infer(question)) == answer
        assert not outcome.done()
        generating.stop = "pause"
        with pytest.raises(Stopped):
            outcome.result(PATIENCE)
    with pytest.raises(Terminal, match="nowhere"):
        list(infer(question.model_copy(update={"spec": spec("/nowhere")})))


def test_a_question_to_a_child_that_dies_is_told(tiny: Path, store: Artifacts) -> None:
    question = Question(run_id="r1", spec=spec(tiny), artifacts=store.url, text="Return 7.")
    pieces = infer(question)
    next(filter(None, pieces))
    kill_child(signal.SIGKILL)
    with pytest.raises(Retriable, match="died"):
        list(pieces)


def test_a_stop_reaches_the_child_which_saves(tiny: Path, store: Artifacts) -> None:
    task = training(store, spec(tiny, steps=5000))

    def stop() -> None:
        task.stop = "abort"

    with pytest.raises(Stopped, match="abort"):
        during(task, stop)
    steps = [int(path.split("checkpoint-")[1].split("/")[0]) for path in store.paths(task.pieces) if "manifest" in path]
    logs = [line["line"] for line in task.drain()["logs"]]
    assert f"checkpoint at step {max(steps)}" in logs


def test_a_child_that_hears_nothing_is_killed_when_its_worker_has_to_go(
    tiny: Path, store: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gpu_trainer.tasks.HAND_BACK_SECONDS", 0.5)
    task = training(store, spec(tiny, steps=5000))
    deaf: list[int | None] = []

    def leave() -> None:
        kill_child(signal.SIGSTOP)
        deaf.append(child_of(os.getpid()))
        task.stop = SHUTDOWN

    with pytest.raises(Stopped, match=SHUTDOWN):
        during(task, leave)
    assert deaf[0]
    assert not is_running(deaf[0])


def test_a_forced_stop_kills_the_child(tiny: Path, store: Artifacts) -> None:
    task = training(store, spec(tiny, steps=5000))
    pids: list[int | None] = []

    def force() -> None:
        pids.append(child_of(os.getpid()))
        task.stop, task.kill = "abort", True

    with pytest.raises(Stopped, match="abort"):
        during(task, force)
    assert pids[0]
    assert not is_running(pids[0])


def test_a_child_that_stands_still_is_killed(tiny: Path, store: Artifacts) -> None:
    HANDLERS["train"](training(filled(Artifacts(store.url + "-before")), spec(tiny, steps=2)))  # its start takes longer
    task = training(store, spec(tiny, steps=5000, stall_seconds=5))
    with pytest.raises(Retriable, match="made no progress") as caught:
        during(task, lambda: kill_child(signal.SIGSTOP))
    assert caught.value.code == "stalled"


def test_errors_come_back_as_what_they_were(store: Artifacts) -> None:
    with pytest.raises(Terminal, match=r"/nowhere has no config\.json") as caught:
        HANDLERS["train"](training(store, spec("/nowhere")))
    assert caught.value.code == "model_not_found"
    assert "student.model" in caught.value.hint
    with pytest.raises(Retriable, match="FileNotFoundError") as unforeseen:
        HANDLERS["train"](training(Artifacts(store.url + "-empty"), spec("/nowhere")))
    assert unforeseen.value.code == "internal"


def test_the_child_dies_with_its_parent(tiny: Path, store: Artifacts) -> None:
    """SIGKILL of a parent that trains in a thread, as the worker does."""
    task = training(store, spec(tiny, steps=5000))
    script = (
        "import json, sys; from services.gpu_trainer.pipe import received; from services.gpu_trainer.tasks import HANDLERS;"
        "HANDLERS['train'](received(json.loads(sys.argv[1])))"
    )
    with subprocess.Popen([sys.executable, "-c", script, json.dumps(described(task))], cwd=ROOT) as parent:
        try:
            eventually(lambda: has_checkpoint(task) or parent.poll() is not None)
            child = child_of(parent.pid)
            assert child
        finally:
            parent.kill()
    eventually(lambda: not is_running(child))


def test_capabilities_are_found_without_torch_in_this_process() -> None:
    able = capabilities()
    assert able["torch"]
    assert able["cpus"] >= 1
    assert able["disk_free_gb"] > 0
    assert able["cuda"] == (able["gpu"] is not None)
    script = "import sys, services.gpu_trainer.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT).returncode == 0


def test_only_one_command_runs_at_a_time(tiny: Path, store: Artifacts) -> None:
    tasks = [training(filled(Artifacts(f"{store.url}-{n}")), spec(tiny, steps=4)) for n in range(2)]
    barrier = threading.Barrier(2)

    def go(task: Task) -> object:
        barrier.wait()
        return HANDLERS["train"](task)

    with ThreadPoolExecutor(2) as pool:
        events = list(pool.map(go, tasks))
    assert [event.type for event in events if isinstance(event, AdapterTrained)] == ["adapter_trained"] * 2
