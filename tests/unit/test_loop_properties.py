"""Whatever a world does to a run, and in whatever order: what stays true."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reflux.commands import Chunk, Command, Correct, Generate, Judge, Prepare, Provision, Review, Score, Teach
from reflux.errors import POLICIES, failure
from reflux.events import (
    AbortRequested,
    ChunkGenerated,
    CleanupOverdue,
    Event,
    EventAdapter,
    MachineLost,
    PauseRequested,
    ResumeRequested,
    RunAdmitted,
    TaskFailed,
    TaskStopped,
    TimeLimitReached,
)
from reflux.loop import decide
from reflux.run import Run
from reflux.spec import StageLimits
from reflux.stages import Stage
from reflux.summary import Usage
from tests.unit.stories import Story, answer, chunk, scores, spec

HOUR_EACH = dict.fromkeys(StageLimits.model_fields, "1h")
SPECS = st.fixed_dictionaries(
    {
        "recipe": st.sampled_from([*["distill"] * 8, "finetune", "job"]),
        "compute": st.fixed_dictionaries({"kind": st.sampled_from(["local", "ec2"])}),
        "teaching": st.fixed_dictionaries({"enabled": st.booleans(), "required": st.booleans(), "shard_size": st.integers(1, 3)}),
        "refining": st.fixed_dictionaries(
            {
                "max_epochs": st.integers(1, 4),
                "patience": st.integers(1, 3),
                "max_corrections": st.integers(1, 4),
                "review": st.booleans(),
            }
        ),
        "limits": st.fixed_dictionaries(
            {"max_teacher_cost_usd": st.sampled_from([None, None, 0.5, 4.0]), "max_stage_runtime": st.just(HOUR_EACH)}
        ),
        "evaluation": st.fixed_dictionaries({"enabled": st.booleans()}),
    }
)
SIZES = st.fixed_dictionaries({"practice": st.integers(0, 5), "dev": st.integers(0, 2), "test": st.integers(0, 2)})


Pick = Callable[[int, int], int]


def within(data: st.DataObject) -> Pick:
    return lambda low, high: data.draw(st.integers(low, high))


def planned(command: Generate) -> list[Chunk]:
    """The chunks of a Generate: always the same, one a prompt set and number."""
    return [chunk(i, prompt_set, command.model) for prompt_set in command.sets for i in range(2)]


def spent(command: Teach | Correct, pick: Pick) -> Usage:
    """What a worker spends that keeps to its share."""
    return Usage(calls=1, cost_usd=0.25 if command.budget_usd is None else command.budget_usd * pick(0, 100) / 100)


class World(RuleBasedStateMachine):
    """One run in a world that answers late, twice, with failures, and changes its mind."""

    run: Run

    @initialize(sections=SPECS, sizes=SIZES, calm=st.integers(0, 20))
    def submitted(self, sections: dict[str, Any], sizes: dict[str, int], calm: int) -> None:
        """The trouble begins after `calm` answers."""
        self.run = Run(id="r1", spec=spec(**sections))
        self.sizes = sizes
        self.told: list[Event] = []
        self.given: dict[str, Command] = {}
        self.stopped: set[str] = set()
        self.cleanups = 0
        for _ in range(calm):
            self.go_on()

    @precondition(lambda self: self.run.stage == Stage.QUEUED)
    @rule()
    def admitted(self) -> None:
        self.tell(RunAdmitted())

    @precondition(lambda self: self.run.open)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        self.tell(self.well_done(self.an_open(data), within(data)))

    @precondition(lambda self: any(isinstance(c, Generate) for c in self.run.open.values()))
    @rule(data=st.data())
    def chunk_generated(self, data: st.DataObject) -> None:
        command = data.draw(st.sampled_from([c for c in self.run.open.values() if isinstance(c, Generate)]))
        self.tell(ChunkGenerated(key=command.key, chunk=data.draw(st.sampled_from(planned(command)))))

    @precondition(lambda self: self.run.open)
    @rule(data=st.data())
    def task_stopped(self, data: st.DataObject) -> None:
        self.tell(TaskStopped(key=self.an_open(data).key))

    @precondition(lambda self: self.bearable())
    @rule(data=st.data())
    def failed_bearably(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.bearable()))
        self.tell(TaskFailed(key=key, failure=failure("internal", "it broke")))
        assert self.run.stopping != "failure"

    @precondition(lambda self: self.run.open)
    @rule(data=st.data(), rarely=st.integers(0, 19))
    def failed(self, data: st.DataObject, rarely: int) -> None:
        if rarely == 7:
            self.tell(TaskFailed(key=self.an_open(data).key, failure=failure("internal", "it broke")))

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def doubled(self, data: st.DataObject) -> None:
        self.tell(data.draw(st.sampled_from(self.told)))

    @precondition(lambda self: set(self.given) - set(self.run.open))
    @rule(data=st.data())
    def answered_late(self, data: st.DataObject) -> None:
        command = self.given[data.draw(st.sampled_from(sorted(set(self.given) - set(self.run.open))))]
        before = self.run
        self.tell(self.well_done(command, within(data)))
        assert self.run == before

    @precondition(lambda self: self.run.has_machine or any(isinstance(c, Provision) for c in self.run.open.values()))
    @rule(code=st.sampled_from([code for code, policy in POLICIES.items() if policy.of_machine]))
    def machine_lost(self, code: str) -> None:
        self.tell(MachineLost(number=self.run.machine_number, resource_id="i-1", failure=failure(code, "it is gone")))

    @rule()
    def paused(self) -> None:
        self.tell(PauseRequested())

    @precondition(lambda self: self.run.stopping == "pause")
    @rule()
    def resumed(self) -> None:
        self.tell(ResumeRequested())

    @precondition(lambda self: self.run.stopping is None and self.run.open)
    @rule(data=st.data())
    def rested(self, data: st.DataObject) -> None:
        """A whole pause: some of what is in hand stops, some of it is done first."""
        self.tell(PauseRequested())
        while self.run.stopping == "pause" and not self.run.paused:
            command = self.an_open(data)
            stops = data.draw(st.booleans())
            self.tell(TaskStopped(key=command.key) if stops else self.well_done(command, within(data)))
        self.tell(ResumeRequested())

    @precondition(lambda self: self.run.stage.value in HOUR_EACH)
    @rule(rarely=st.integers(0, 19))
    def stage_out_of_time(self, rarely: int) -> None:
        if rarely == 7:
            self.tell(TimeLimitReached(stage=self.run.stage))

    @precondition(lambda self: self.run.stage != Stage.QUEUED)
    @rule(request=st.sampled_from([AbortRequested(), TimeLimitReached(), CleanupOverdue()]), rarely=st.integers(0, 19))
    def ended(self, request: Event, rarely: int) -> None:
        if rarely == 7:
            self.tell(request)

    def teardown(self) -> None:
        """Everybody does their work from now on: the run comes to its end."""
        for _ in range(400):
            self.go_on()
        assert self.run.stage.terminal
        assert self.run.outcome == self.run.stage.value
        assert self.cleanups == 1
        assert self.run.partial in (False, self.run.adapter_path is not None)
        assert (self.run.error is None) or self.run.outcome != "succeeded"

    def go_on(self) -> None:
        if self.run.paused:
            self.tell(ResumeRequested())
        elif self.run.stage == Stage.QUEUED:
            self.tell(RunAdmitted())
        elif not self.run.stage.terminal:
            self.tell(self.well_done(next(iter(self.run.open.values())), lambda _, high: high))

    def tell(self, event: Event) -> None:
        before, text = self.run, self.run.model_dump_json()
        after, commands = decide(before, event)
        assert before.model_dump_json() == text, "the run before must stay as it was"
        assert decide(Run.model_validate_json(text), EventAdapter.validate_json(event.model_dump_json())) == (after, commands)
        self.told.append(event)
        if isinstance(event, TaskStopped) and event.key in before.open:
            self.stopped.add(event.key)
        for command in commands:
            assert command.key not in self.given or command.key in self.stopped, f"{command.key} is given twice"
            self.cleanups += command.key == "clean_up" and command.key not in self.given
            self.given[command.key] = command
            self.stopped.discard(command.key)
        self.run = after
        self.check(before)

    def check(self, before: Run) -> None:
        run = self.run
        assert (run.epoch, run.stage.order) >= (before.epoch, before.stage.order)
        assert before.outcome in (None, run.outcome)
        assert not before.stage.terminal or run == before
        assert all(key == command.key for key, command in run.open.items())
        assert len({c.key for c in run.parked} | set(run.open)) == len(run.parked) + len(run.open)
        resting = run.stage.terminal or run.paused or run.stage == Stage.QUEUED
        assert resting == (not run.open), "work is open exactly while the run neither rests nor has ended"
        assert [e.epoch for e in run.epochs] == list(range(1, len(run.epochs) + 1))
        for epoch in (run, *run.epochs):
            assert 0 <= epoch.admitted + epoch.refused <= epoch.requested
        assert run.epoch <= run.spec.refining.max_epochs
        if run.spec.limits.max_teacher_cost_usd is not None:
            shares = sum(c.budget_usd or 0 for c in (*run.open.values(), *run.parked) if isinstance(c, Teach | Correct))
            assert run.usage.cost_usd + shares <= run.spec.limits.max_teacher_cost_usd + 1e-9

    def bearable(self) -> list[str]:
        """What is open and may fail without ending the run. (All of teaching failing may.)"""
        return sorted(
            k for k, c in self.run.open.items() if c.stage in (Stage.REFINING, Stage.EVALUATING) and c.kind != "generate"
        )

    def an_open(self, data: st.DataObject) -> Command:
        return self.run.open[data.draw(st.sampled_from(sorted(self.run.open)))]

    def well_done(self, command: Command, pick: Pick) -> Event:
        match command:
            case Prepare():
                return answer(command, **self.sizes)
            case Teach(start=start, stop=stop):
                answered = pick(0, stop - start)
                return answer(command, answered=answered, failed=stop - start - answered, usage=spent(command, pick))
            case Generate():
                return answer(command, chunks=planned(command))
            case Score(chunk=piece):
                return answer(command, **scores(piece, pick(0, 100) / 10, poor=pick(0, piece.count)))
            case Correct():
                wanted = self.wanted(command)
                return answer(command, requested=wanted, answered=pick(0, wanted), usage=spent(command, pick))
            case Judge():
                if command.edited:
                    waiting = next(e.edited for e in self.told if getattr(e, "edited_path", None) == command.corrections_path)  # type: ignore[union-attr]
                else:
                    waiting = next(e.answered for e in self.told if getattr(e, "path", None) == command.corrections_path)  # type: ignore[union-attr]
                admitted = pick(0, waiting)
                return answer(command, admitted=admitted, refused=waiting - admitted)
            case Review():
                judged = next(e for e in reversed(self.told) if getattr(e, "path", None) == command.corrections_path)
                admitted = pick(0, judged.admitted)  # type: ignore[union-attr]
                edited = pick(0, judged.admitted - admitted)  # type: ignore[union-attr]
                refused = judged.admitted - admitted - edited  # type: ignore[union-attr]
                rewritten = f"{command.key}-edited" if edited else None
                return answer(command, admitted=admitted, refused=refused, edited=edited, edited_path=rewritten)
        return answer(command)

    def wanted(self, command: Correct) -> int:
        """How many answers this Correct is about."""
        if command.refused_path is not None:
            return next(e.refused for e in reversed(self.told) if getattr(e, "path", None) == command.refused_path)  # type: ignore[union-attr]
        told = {e.path: e.poor for e in self.told if e.type == "chunk_scored"}
        poor = sum(told[path] for path in command.verdicts_paths)
        return poor if command.limit is None else min(poor, command.limit)


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=80, deadline=None)
@given(order=st.randoms(use_true_random=False), facts=st.integers(0, 10_000), max_corrections=st.sampled_from([5, 500]))
def test_an_epoch_is_the_same_in_whatever_order_its_chunks_arrive(order: random.Random, facts: int, max_corrections: int) -> None:
    begun = Story(refining={"max_corrections": max_corrections}).until(Stage.PREPARING)
    begun.done("prepare", practice=20)
    begun.until(Stage.REFINING)
    in_order, in_disorder = (
        _epoch(begun.run, facts, random.Random(0), shuffled=False),
        _epoch(begun.run, facts, order, shuffled=True),
    )
    assert in_disorder == in_order


def _epoch(run: Run, facts: int, order: random.Random, *, shuffled: bool) -> tuple[Any, ...]:
    """Play an epoch whose facts are given by `facts` and each key, its events in this order: what came of it."""
    keys: Counter[str] = Counter()
    pieces = [chunk(i, name, count=3) for name in ("practice", "dev") for i in range(5)]
    heard: list[Event] = [ChunkGenerated(key="generate-001-student", chunk=piece) for piece in pieces]
    waiting = [*heard, answer(run.open["generate-001-student"], chunks=pieces)]
    while run.epoch == 1:
        event = waiting.pop(order.randrange(len(waiting)) if shuffled else 0)
        run, commands = decide(run, event)
        keys.update(command.key for command in commands)
        waiting += [_outcome(command, facts) for command in commands if run.epoch == 1]
    return run.epochs, run.corrections_paths, run.open, keys, run.usage, set(run.warnings)


def _outcome(command: Command, facts: int) -> Event:
    drawn = random.Random(f"{facts} {command.key}")
    if drawn.random() < 0.1:
        return TaskFailed(key=command.key, failure=failure("internal", "it broke"), seconds=0.5)
    match command:
        case Score(chunk=piece):
            return answer(command, **scores(piece, drawn.uniform(0, 10), poor=drawn.randint(0, piece.count)), seconds=0.25)
        case Correct():
            return answer(command, requested=3, answered=drawn.randint(0, 3), usage=Usage(calls=3, cost_usd=0.125))
        case Judge():
            return answer(command, admitted=drawn.randint(0, 2), refused=drawn.randint(0, 1))
    raise AssertionError(f"no {command.key} in refining")
