"""The whole loop in one process, without a server, a queue or a database: the place to set a breakpoint.

`decide` says what is to be done, the workers' own functions do it, and what they report goes back to `decide`, until
nothing is left. Student, compiler and teacher's wire are real, only small: `pytest tests/e2e/test_one_run.py -s` shows them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts, attempt_folder
from reflux.commands import Chunk, CleanUp, Command, Compare, Correct, ExportModel, Judge, Train
from reflux.events import ChunkGenerated, Event, RunAdmitted
from reflux.loop import decide
from reflux.records import Answer, Correction, Prompt, Verdict
from reflux.run import Run
from reflux.spec import RunSpec
from reflux.stages import Stage
from reflux.task import Task
from services.evaluator import tasks as evaluator
from services.gpu_trainer.export import export_model
from services.gpu_trainer.generate import generate
from services.gpu_trainer.models import Bench
from services.gpu_trainer.rows import training_rows
from services.gpu_trainer.train import train
from services.teacher_worker import tasks as teacher_worker
from tests import tiny_student
from tests.e2e.tiny import EXAMPLES, tiny_spec
from tests.teacher_tasks import stand_in

# PEFT 0.21 asks transformers 5.23 by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CORPUS = ("gate_control_list.c", "pcp_map.c", "ptp_timestamp.c", "shaper_config.c")


class World:
    """One worker that can do everything, and what it was asked to do, in order."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        self.commands: dict[str, Command] = {}
        self.stages: list[Stage] = []
        bench = Bench()
        self.handlers: dict[str, Callable[[Task], Event]] = {
            **teacher_worker.HANDLERS,
            **evaluator.HANDLERS,
            "train": lambda task: train(task, bench),
            "generate": lambda task: generate(task, bench),
            "export_model": lambda task: export_model(task, bench),
        }

    def play(self, run: Run) -> Run:
        """From its beginning to its end."""
        facts: deque[Event] = deque([RunAdmitted()])
        orders: deque[Command] = deque()
        while facts or orders:
            while facts:
                run, commands = decide(run, facts.popleft())
                orders.extend(commands)
                self.stages += [run.stage] if run.stage not in self.stages[-1:] else []
            if orders:
                facts.extend(self.carry_out(run, orders.popleft()))
        return run

    def carry_out(self, run: Run, command: Command) -> Iterator[Event]:
        if isinstance(command, CleanUp):  # what was accepted stays; a server tells this when the command is claimed
            kept = tuple(attempt_folder(run.id, key, 1) for key in self.commands)
            command = command.model_copy(update={"keep_prefixes": kept})
        self.commands[command.key] = command
        task = Task(run.id, command, run.spec, self.artifacts)
        fact = self.handlers[command.kind](task)
        for chunk in task.drain()["chunks"]:
            yield ChunkGenerated(key=command.key, chunk=Chunk.model_validate(chunk))
        yield fact

    def asked(self, kind: type[Command]) -> list[Command]:
        return [command for command in self.commands.values() if isinstance(command, kind)]


@pytest.fixture(scope="module")
def spec(ground: Path) -> Iterator[RunSpec]:
    """Three epochs over four practice prompts, with a student of 0.2 million parameters and a recorded teacher."""
    source = ground / "one-run" / "corpus"
    source.mkdir(parents=True)
    for name in CORPUS:
        (source / name).write_bytes((EXAMPLES / "corpus" / "tsn" / name).read_bytes())
    with stand_in(EXAMPLES / "teacher.jsonl") as teacher:
        yield RunSpec.model_validate(
            tiny_spec(
                tiny_student.make(ground / "one-run" / "student"),
                data={"sources": [{"uri": f"file://{source}", "domain": "tsn"}]},
                prompts={"practice": 4},
                teacher={"endpoint_url": teacher.url},
                teaching={"max_prompts": 2},
                refining={"max_epochs": 3},
            )
        )


@pytest.fixture(scope="module")
def world(ground: Path) -> World:
    return World(Artifacts(f"file://{ground}/one-run/artifacts"))


@pytest.fixture(scope="module")
def run(world: World, spec: RunSpec) -> Run:
    """The run, played once for all the tests below."""
    return world.play(Run(id="one", spec=spec))


def test_it_goes_through_every_stage_and_succeeds(world: World, run: Run) -> None:
    show(run)
    epoch = [Stage.TRAINING, Stage.REFINING]
    before = [Stage.VALIDATING, Stage.PREPARING, Stage.TEACHING]
    after = [Stage.EVALUATING, Stage.EXPORTING, Stage.CLEANING_UP, Stage.SUCCEEDED]
    assert world.stages == [*before, *epoch * 3, *after]
    assert (run.outcome, run.reason, run.error, run.partial) == ("succeeded", "max epochs", None, False)
    assert not run.manual_action_required
    assert run.open == {}


def test_it_prepared_a_dataset_out_of_the_sources(run: Run) -> None:
    assert run.dataset is not None
    assert run.dataset.files == len(CORPUS)
    assert run.dataset.train > 0
    assert (run.dataset.practice, run.dataset.dev, run.dataset.test) == (4, 2, 2)
    assert run.taught == 2


def test_every_epoch_trained_answered_and_was_scored(run: Run) -> None:
    assert [epoch.epoch for epoch in run.epochs] == [1, 2, 3]
    for epoch in run.epochs:
        assert epoch.train_loss > 0
        assert epoch.steps == run.spec.training.max_steps
        assert epoch.practice.count == 4
        assert epoch.dev is not None
        assert epoch.dev.count == 2
        assert 0 <= epoch.practice.overall <= 10
    assert run.epochs[2].train_loss < run.epochs[0].train_loss, "each epoch goes on with the adapter of the last"


def test_poor_answers_are_corrected_and_the_corrections_flow_into_the_next_training(world: World, run: Run) -> None:
    first, second, third = (command for command in world.asked(Train) if isinstance(command, Train))
    assert first.corrections_paths == ()
    assert second.corrections_paths
    assert set(second.corrections_paths) < set(third.corrections_paths)
    assert run.epochs[0].admitted > 0
    for path in second.corrections_paths:
        for correction in world.artifacts.read_rows(path, Correction):
            assert correction.verdict is not None
            assert not correction.admitted or correction.verdict.overall > correction.attempt_verdict.overall
            trained = [message.content for row in rows(world, run, second) for message in row]
            assert (correction.answer.text in trained) == correction.admitted


def test_the_last_epoch_buys_no_corrections(world: World, run: Run) -> None:
    assert {command.epoch for command in world.asked(Correct) + world.asked(Judge)} == {1, 2}
    assert (run.epochs[2].requested, run.epochs[2].usage.calls) == (0, 0)
    assert run.usage.calls == run.taught + sum(epoch.usage.calls for epoch in run.epochs)


def test_what_is_measured_was_never_trained_on(world: World, run: Run) -> None:
    assert run.dataset is not None
    prompts = list(world.artifacts.read_rows(run.dataset.prompts_path, Prompt))
    held_out = {prompt.text for prompt in prompts if prompt.set != "practice"}
    practised = {prompt.text for prompt in prompts if prompt.set == "practice"}
    assert len(held_out) == len(practised) == 4
    seen = {message.content for command in world.asked(Train) for row in rows(world, run, command) for message in row}
    assert not held_out & seen
    assert practised & seen


def test_base_and_best_are_compared_on_the_test_prompts(world: World, run: Run) -> None:
    (command,) = world.asked(Compare)
    assert isinstance(command, Compare)
    for paths in (command.base_paths, command.best_paths):
        verdicts = [row for path in paths for row in world.artifacts.read_rows(path, Verdict)]
        assert len(verdicts) == 2
    assert run.comparison is not None
    assert run.comparison.prompts == 2
    assert run.comparison.low <= run.comparison.difference <= run.comparison.high


def test_the_best_adapter_is_exported(world: World, run: Run) -> None:
    (command,) = world.asked(ExportModel)
    assert isinstance(command, ExportModel)
    best = max(run.epochs, key=lambda epoch: epoch.choosing_score)
    assert command.adapter_path == best.adapter_path


def test_everything_that_a_user_looks_for_is_there(world: World, run: Run) -> None:
    files = world.artifacts.paths("runs/one")
    for name in ("adapter/adapter_model.safetensors", "training_summary.json", "report.md", "cleanup_status.json"):
        assert f"runs/one/{name}" in files
    summary = world.artifacts.get_json("runs/one/training_summary.json")
    assert summary["outcome"] == "succeeded"
    assert len(summary["epochs"]) == 3
    assert "max epochs" in world.artifacts.get("runs/one/report.md").decode()


def test_what_the_run_remembers_is_still_there_after_cleanup(world: World, run: Run) -> None:
    answers = [answer for scored in run.chunks.values() for answer in world.artifacts.read_rows(scored.chunk.path, Answer)]
    assert len(answers) == 4
    for path in (*run.taught_paths, *run.corrections_paths):
        assert world.artifacts.exists(path)


def rows(world: World, run: Run, command: Command) -> list[tuple[object, ...]]:
    """The conversations that a Train trained on."""
    assert isinstance(command, Train)
    return [row.messages for row in training_rows(Task(run.id, command, run.spec, world.artifacts), command)]


def show(run: Run) -> None:
    lines = ["", "epoch   loss  practice   dev  poor  asked  admitted  refused      cost"]
    for e in run.epochs:
        dev = f"{e.dev.overall:.2f}" if e.dev else "-"
        lines.append(
            f"{e.epoch:>5} {e.train_loss:>6.3f} {e.practice.overall:>9.2f} {dev:>5} {e.correction_rate:>5.0%}"
            f" {e.requested:>6} {e.admitted:>9} {e.refused:>8} {e.usage.cost_usd:>8.4f}$"
        )
    if run.comparison:
        c = run.comparison
        lines.append(f"base {c.base.overall:.2f}, best {c.best.overall:.2f}: {c.difference:+.2f} [{c.low:+.2f}, {c.high:+.2f}]")
    print("\n".join([*lines, *(f"warning: {warning}" for warning in run.warnings)]))  # noqa: T201 (seen with -s)
