"""One training by two processes on the CPU: the curve of one, and its troubles. Real processes that meet over gloo."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from reflux.artifacts import Artifacts
from reflux.errors import Retriable, Stopped, Terminal
from reflux.spec import RunSpec
from reflux.task import Task
from services.gpu_trainer import group
from services.gpu_trainer.models import Bench
from services.gpu_trainer.train import train
from tests.integration.by_hand import eventually
from tests.trainer_tasks import StoppedBy, copied, lines, make_spec, make_task, same, train_command, weights

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_TRAINING_PROCESSES", "2")


def without_dropout(spec: RunSpec) -> RunSpec:
    """Each process draws its own."""
    return spec.model_copy(update={"lora": spec.lora.model_copy(update={"dropout": 0.0})})


def losses(task: Task) -> list[float]:
    found: list[float] = task.artifacts.get_json(f"{task.folder}/metrics.json")["losses"]
    return found


@pytest.mark.long
def test_two_go_on_where_one_stopped_and_one_where_two_did(tiny: Path, bench: Bench, store: Artifacts) -> None:
    spec = without_dropout(make_spec(tiny, training={"max_steps": 60, "eval_steps": 20, "checkpoint_steps": 100}))
    with pytest.raises(Stopped):
        train(StoppedBy(make_task(store, spec, train_command()), when=lambda done: done >= 3), bench)
    together = StoppedBy(make_task(store, spec, train_command(), attempt=2), when=lambda done: done > 5)
    with pytest.raises(Stopped, match="pause"):
        group.train_together(together, bench)
    said = lines(together)
    assert "going on from the checkpoint at step 3" in said
    step = int(said.split("checkpoint at step ")[-1].split("\n")[0])
    last = make_task(store, spec, train_command(), attempt=3)
    event = train(last, bench)
    assert f"going on from the checkpoint at step {step}" in lines(last)
    twin = make_task(copied(store), spec, train_command())
    alone = train(twin, bench)
    assert 3 < step < 60
    assert losses(last) == pytest.approx(losses(twin), rel=1e-4)
    assert event.val_loss == pytest.approx(alone.val_loss, rel=1e-4)


def test_parts_of_the_weights_in_each_process_make_the_same_adapter(tiny: Path, bench: Bench, store: Artifacts) -> None:
    """FSDP, with checkpoints, and weights of which earlier ones were the best."""
    training = {"sharding": "fsdp", "gradient_checkpointing": True, "batch_size": 3, "accumulation": 2}
    spec = without_dropout(make_spec(tiny, training=training | {"learning_rate": 0.5, "warmup_steps": 0, "eval_steps": 1}))
    task = make_task(store, spec, train_command())
    event = group.train_together(task, bench)
    twin_store = copied(store)
    twin = make_task(twin_store, spec, train_command())
    alone = train(twin, bench)
    assert losses(task) == pytest.approx(losses(twin), rel=1e-3)
    assert event.val_loss == pytest.approx(alone.val_loss, rel=1e-3)
    ours, theirs = weights(store, event.adapter_path), weights(twin_store, alone.adapter_path)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == pytest.approx(theirs[name], abs=1e-3) for name in ours)
    best = [weights(place, f"{one.folder}/best") for place, one in ((store, task), (twin_store, twin))]
    assert not same(best[0], ours)
    report = task.drain()
    assert report["progress"]["done"] == 8
    assert {"loss", "val_loss", "tokens_per_second"} <= {name for point in report["metrics"] for name in point["values"]}


def rank(number: int) -> psutil.Process | None:
    for process in psutil.Process().children(recursive=True):
        try:
            if process.environ().get("RANK") == str(number):
                return process
        except psutil.Error:
            continue
    return None


def test_a_process_that_dies_takes_the_others_along_and_is_told(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny, training={"max_steps": 100_000, "checkpoint_steps": 2}), train_command())
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(group.train_together, task, bench)
        eventually(lambda: any("manifest" in path for path in store.paths(task.pieces)) or outcome.done(), 120, "no checkpoint")
        first, second = rank(0), rank(1)
        assert first
        assert second
        os.kill(second.pid, signal.SIGKILL)
        with pytest.raises(Retriable) as caught:
            outcome.result(120)
    assert caught.value.code == "worker_lost"
    eventually(lambda: not first.is_running(), 30, "the other lives")


def test_a_diverging_training_of_two_names_the_rows_of_both(tiny: Path, bench: Bench, store: Artifacts) -> None:
    task = make_task(store, make_spec(tiny, training={"learning_rate": 1e38, "max_steps": 6}), train_command())
    with pytest.raises(Terminal, match=r"At step \d the .* was (nan|inf) \(rows e\d+") as caught:
        group.train_together(task, bench)
    assert caught.value.code == "nan_loss"
    assert "memory" in lines(task)


@pytest.mark.parametrize(("rows", "wanted", "taken"), [(8, 1, 1), (8, 4, 4), (8, 3, 2), (6, 4, 3), (1, 8, 1)])
def test_as_many_take_part_as_can_share_out_a_step(
    monkeypatch: pytest.MonkeyPatch, store: Artifacts, rows: int, wanted: int, taken: int
) -> None:
    monkeypatch.setenv("REFLUX_TRAINING_PROCESSES", str(wanted))
    spec = make_spec("any", training={"batch_size": 1, "accumulation": rows})
    assert group.size(make_task(store, spec, train_command())) == taken


def test_a_number_of_processes_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, store: Artifacts) -> None:
    monkeypatch.setenv("REFLUX_TRAINING_PROCESSES", "all")
    with pytest.raises(Terminal, match="REFLUX_TRAINING_PROCESSES is 'all'"):
        group.size(make_task(store, make_spec("any"), train_command()))
