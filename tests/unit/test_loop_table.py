"""Every stage against every fact: what the loop makes of it."""

from functools import cache
from typing import Any, get_args

import pytest

from reflux.commands import Command, Generate, Score, whereabouts
from reflux.errors import failure
from reflux.events import (
    ANSWERS,
    AbortRequested,
    ChunkGenerated,
    CleanupOverdue,
    Event,
    MachineLost,
    PauseRequested,
    ResumeRequested,
    RunAdmitted,
    TaskFailed,
    TaskStopped,
    TimeLimitReached,
)
from reflux.loop import Impossible, decide, is_stale
from reflux.run import Run
from reflux.spec import StageLimits
from reflux.stages import Stage
from tests.unit.stories import Story, answer, chunk, scores

# >  the run advances: another stage, or new commands       .  stale: too late, changes nothing
# +  the fact is recorded, and nothing follows yet          !  impossible: raises
# =  the same command is given again                        -  the recipe has no such stage
#
# A column shows the run at the first moment of the stage at which the fact's command is open, else at its first moment.
# It is in epoch 2 from `training` on, in epoch 0 before. {old}, {now}, {new}: the epoch before, this one, the one to come.
DISTILL = """
fact                command                             que val pro pre tea tra ref eva exp cle suc fai abo
run_admitted        ·                                   >   .   .   .   .   .   .   .   .   .   .   .   .
abort_requested     ·                                   >   +   +   +   +   +   +   +   +   .   .   .   .
pause_requested     ·                                   +   +   +   +   +   +   +   +   +   .   .   .   .
resume_requested    ·                                   .   .   .   .   .   .   .   .   .   .   .   .   .
time_limit_reached  ·                                   >   +   +   +   +   +   +   +   .   .   .   .   .
time_limit_reached  validating                          .   +   .   .   .   .   .   .   .   .   .   .   .
time_limit_reached  provisioning                        .   .   +   .   .   .   .   .   .   .   .   .   .
time_limit_reached  preparing                           .   .   .   +   .   .   .   .   .   .   .   .   .
time_limit_reached  teaching                            .   .   .   .   +   .   .   .   .   .   .   .   .
time_limit_reached  training                            .   .   .   .   .   +   .   .   .   .   .   .   .
time_limit_reached  refining                            .   .   .   .   .   .   +   .   .   .   .   .   .
time_limit_reached  evaluating                          .   .   .   .   .   .   .   >   .   .   .   .   .
time_limit_reached  exporting                           .   .   .   .   .   .   .   .   +   .   .   .   .
cleanup_overdue     ·                                   .   .   .   .   .   .   .   .   .   >   .   .   .
machine_lost        ·                                   !   !   >   >   >   >   >   >   >   .   .   .   .
preflight_passed    preflight                           !   >   .   .   .   .   .   .   .   .   .   .   .
machine_provisioned provision                           !   !   >   .   .   .   .   .   .   .   .   .   .
dataset_prepared    prepare                             !   !   !   >   .   .   .   .   .   .   .   .   .
prompts_taught      teach-0000                          !   !   !   !   +   .   .   .   .   .   .   .   .
adapter_trained     train-{old}                         !   !   !   !   !   .   .   .   .   .   .   .   .
adapter_trained     train-{now}                         !   !   !   !   !   >   .   .   .   .   .   .   .
adapter_trained     train-{new}                         !   !   !   !   !   !   !   !   !   !   !   !   !
chunk_generated     generate-{old}-student              !   !   !   !   !   .   .   .   .   .   .   .   .
chunk_generated     generate-{now}-student              !   !   !   !   !   !   >   .   .   .   .   .   .
chunk_generated     generate-{new}-student              !   !   !   !   !   !   !   !   !   !   !   !   !
chunk_generated     generate-{now}-base                 !   !   !   !   !   !   !   >   .   .   .   .   .
answers_generated   generate-{old}-student              !   !   !   !   !   .   .   .   .   .   .   .   .
answers_generated   generate-{now}-student              !   !   !   !   !   !   >   .   .   .   .   .   .
answers_generated   generate-{new}-student              !   !   !   !   !   !   !   !   !   !   !   !   !
answers_generated   generate-{now}-best                 !   !   !   !   !   !   !   >   .   .   .   .   .
chunk_scored        score-{old}-student-practice-0000   !   !   !   !   !   .   .   .   .   .   .   .   .
chunk_scored        score-{now}-student-practice-0000   !   !   !   !   !   !   >   .   .   .   .   .   .
chunk_scored        score-{now}-student-dev-0000        !   !   !   !   !   !   +   .   .   .   .   .   .
chunk_scored        score-{new}-student-practice-0000   !   !   !   !   !   !   !   !   !   !   !   !   !
chunk_scored        score-{now}-base-test-0000          !   !   !   !   !   !   !   +   .   .   .   .   .
corrections_written correct-{old}-0000-1                !   !   !   !   !   .   .   .   .   .   .   .   .
corrections_written correct-{now}-0000-1                !   !   !   !   !   !   >   .   .   .   .   .   .
corrections_written correct-{now}-0000-2                !   !   !   !   !   !   >   .   .   .   .   .   .
corrections_written correct-{new}-0000-1                !   !   !   !   !   !   !   !   !   !   !   !   !
corrections_judged  judge-{old}-0000-1                  !   !   !   !   !   .   .   .   .   .   .   .   .
corrections_judged  judge-{now}-0000-1                  !   !   !   !   !   !   >   .   .   .   .   .   .
corrections_judged  judge-{now}-0000-2                  !   !   !   !   !   !   >   .   .   .   .   .   .
corrections_judged  judge-{new}-0000-1                  !   !   !   !   !   !   !   !   !   !   !   !   !
corrections_reviewed review-{old}-0000-1                 !   !   !   !   !   .   .   .   .   .   .   .   .
corrections_reviewed review-{now}-0000-1                 !   !   !   !   !   !   +   .   .   .   .   .   .
corrections_reviewed review-{new}-0000-1                 !   !   !   !   !   !   !   !   !   !   !   !   !
models_compared     compare                             !   !   !   !   !   !   !   >   .   .   .   .   .
model_exported      export_model                        !   !   !   !   !   !   !   !   >   .   .   .   .
results_delivered   deliver                             !   !   !   !   !   !   !   !   >   .   .   .   .
cleaned_up          clean_up                            !   !   !   !   !   !   !   !   !   >   .   .   .
task_failed         preflight                           !   >   .   .   .   .   .   .   .   .   .   .   .
task_failed         provision                           !   !   >   .   .   .   .   .   .   .   .   .   .
task_failed         prepare                             !   !   !   >   .   .   .   .   .   .   .   .   .
task_failed         teach-0000                          !   !   !   !   +   .   .   .   .   .   .   .   .
task_failed         train-{old}                         !   !   !   !   !   .   .   .   .   .   .   .   .
task_failed         train-{now}                         !   !   !   !   !   >   .   .   .   .   .   .   .
task_failed         train-{new}                         !   !   !   !   !   !   !   !   !   !   !   !   !
task_failed         generate-{old}-student              !   !   !   !   !   .   .   .   .   .   .   .   .
task_failed         generate-{now}-student              !   !   !   !   !   !   >   .   .   .   .   .   .
task_failed         generate-{now}-base                 !   !   !   !   !   !   !   >   .   .   .   .   .
task_failed         score-{old}-student-practice-0000   !   !   !   !   !   .   .   .   .   .   .   .   .
task_failed         score-{now}-student-practice-0000   !   !   !   !   !   !   +   .   .   .   .   .   .
task_failed         score-{now}-base-test-0000          !   !   !   !   !   !   !   >   .   .   .   .   .
task_failed         correct-{old}-0000-1                !   !   !   !   !   .   .   .   .   .   .   .   .
task_failed         correct-{now}-0000-1                !   !   !   !   !   !   +   .   .   .   .   .   .
task_failed         judge-{old}-0000-1                  !   !   !   !   !   .   .   .   .   .   .   .   .
task_failed         judge-{now}-0000-1                  !   !   !   !   !   !   +   .   .   .   .   .   .
task_failed         review-{old}-0000-1                 !   !   !   !   !   .   .   .   .   .   .   .   .
task_failed         review-{now}-0000-1                 !   !   !   !   !   !   +   .   .   .   .   .   .
task_failed         compare                             !   !   !   !   !   !   !   >   .   .   .   .   .
task_failed         export_model                        !   !   !   !   !   !   !   !   >   .   .   .   .
task_failed         deliver                             !   !   !   !   !   !   !   !   >   .   .   .   .
task_failed         clean_up                            !   !   !   !   !   !   !   !   !   >   .   .   .
task_stopped        preflight                           !   =   .   .   .   .   .   .   .   .   .   .   .
task_stopped        provision                           !   !   =   .   .   .   .   .   .   .   .   .   .
task_stopped        prepare                             !   !   !   =   .   .   .   .   .   .   .   .   .
task_stopped        teach-0000                          !   !   !   !   =   .   .   .   .   .   .   .   .
task_stopped        train-{old}                         !   !   !   !   !   .   .   .   .   .   .   .   .
task_stopped        train-{now}                         !   !   !   !   !   =   .   .   .   .   .   .   .
task_stopped        train-{new}                         !   !   !   !   !   !   !   !   !   !   !   !   !
task_stopped        generate-{old}-student              !   !   !   !   !   .   .   .   .   .   .   .   .
task_stopped        generate-{now}-student              !   !   !   !   !   !   =   .   .   .   .   .   .
task_stopped        generate-{now}-base                 !   !   !   !   !   !   !   =   .   .   .   .   .
task_stopped        score-{old}-student-practice-0000   !   !   !   !   !   .   .   .   .   .   .   .   .
task_stopped        score-{now}-student-practice-0000   !   !   !   !   !   !   =   .   .   .   .   .   .
task_stopped        score-{now}-base-test-0000          !   !   !   !   !   !   !   =   .   .   .   .   .
task_stopped        correct-{old}-0000-1                !   !   !   !   !   .   .   .   .   .   .   .   .
task_stopped        correct-{now}-0000-1                !   !   !   !   !   !   =   .   .   .   .   .   .
task_stopped        judge-{old}-0000-1                  !   !   !   !   !   .   .   .   .   .   .   .   .
task_stopped        judge-{now}-0000-1                  !   !   !   !   !   !   =   .   .   .   .   .   .
task_stopped        review-{old}-0000-1                 !   !   !   !   !   .   .   .   .   .   .   .   .
task_stopped        review-{now}-0000-1                 !   !   !   !   !   !   =   .   .   .   .   .   .
task_stopped        compare                             !   !   !   !   !   !   !   =   .   .   .   .   .
task_stopped        export_model                        !   !   !   !   !   !   !   !   =   .   .   .   .
task_stopped        deliver                             !   !   !   !   !   !   !   !   =   .   .   .   .
task_stopped        clean_up                            !   !   !   !   !   !   !   !   !   =   .   .   .
"""
JOB = """
fact                command                             que val pro pre tea tra ref eva exp cle suc fai abo
pause_requested     ·                                   +   +   +   +   -   +   -   -   +   .   .   .   .
abort_requested     ·                                   >   +   +   +   -   +   -   -   +   .   .   .   .
time_limit_reached  ·                                   >   +   +   +   -   +   -   -   .   .   .   .   .
time_limit_reached  training                            .   .   .   .   -   +   -   -   .   .   .   .   .
time_limit_reached  exporting                           .   .   .   .   -   .   -   -   +   .   .   .   .
machine_lost        ·                                   !   !   >   >   -   >   -   -   +   .   .   .   .
job_finished        run_job                             !   !   !   !   -   >   -   -   .   .   .   .   .
task_failed         run_job                             !   !   !   !   -   >   -   -   .   .   .   .   .
task_stopped        run_job                             !   !   !   !   -   =   -   -   .   .   .   .   .
results_delivered   deliver                             !   !   !   !   -   !   -   -   >   .   .   .   .
task_failed         prepare                             !   !   !   >   -   .   -   -   .   .   .   .   .
task_failed         deliver                             !   !   !   !   -   !   -   -   >   .   .   .   .
"""

REQUESTS = {
    "run_admitted": RunAdmitted(),
    "abort_requested": AbortRequested(),
    "pause_requested": PauseRequested(),
    "resume_requested": ResumeRequested(),
    "time_limit_reached": TimeLimitReached(),
    "cleanup_overdue": CleanupOverdue(),
    "machine_lost": MachineLost(number=1, resource_id="i-1", failure=failure("instance_lost", "i-1 is gone")),
}
# A machine of its own, two shards of teaching, poor answers, a review, limits, so that every stage and every command comes up
SECTIONS: dict[str, Any] = {
    "compute": {"kind": "ec2"},
    "teaching": {"shard_size": 2},
    "refining": {"patience": 9, "max_epochs": 3, "review": True},
    "limits": {"max_stage_runtime": dict.fromkeys(StageLimits.model_fields, "1h")},
}


def rows(table: str) -> list[list[str]]:
    header, *lines = [line.split() for line in table.strip().split("\n")]
    assert header[2:] == [stage.value[:3] for stage in Stage], "a column for every stage, in their order"
    assert all(len(line) == len(header) for line in lines)
    return lines


ROWS = [("distill", *row) for row in rows(DISTILL)] + [("job", *row) for row in rows(JOB)]
# In the middle of an epoch, with other things open, where each request finds the run in another state
IN_A_STOP = """
fact                going    pausing  paused   aborting limit    failing
run_admitted        .        .        .        .        .        .
abort_requested     +        +        >        .        +        .
pause_requested     +        .        .        .        .        .
resume_requested    .        >        >        .        .        .
time_limit_reached  +        +        >        .        .        .
machine_lost        >        +        +        .        +        .
task_stopped        =        +        .        >        >        >
"""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:3]))
def test_every_fact_in_every_stage(row: tuple[str, ...]) -> None:
    recipe, kind, key, *marks = row
    drawn = []
    for stage in Stage:
        if recipe == "job" and stage in (Stage.TEACHING, Stage.REFINING, Stage.EVALUATING):
            drawn.append("-")
        else:
            run = moment(recipe, stage, key)
            drawn.append(outcome(run, fact(run, kind, named(key, run))))
    assert drawn == marks


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:3]))
def test_a_doubled_fact_changes_nothing(row: tuple[str, ...]) -> None:
    recipe, kind, key, *marks = row
    for stage, mark in zip(Stage, marks, strict=True):
        if mark in ">+":
            run = moment(recipe, stage, key)
            event = fact(run, kind, named(key, run))
            after, _ = decide(run, event)
            assert decide(after, event) == (after, ()), stage


def test_the_table_has_a_row_for_every_fact_and_every_command() -> None:
    told = {(kind, key.split("-")[0]) for _, kind, key, *_ in ROWS}
    facts = {event.model_fields["type"].default for event in get_args(get_args(Event)[0])}
    assert {kind for kind, _ in told} == facts
    kinds = {command.model_fields["kind"].default for command in get_args(get_args(Command)[0])}
    assert set(ANSWERS) == kinds
    for ending in ("task_failed", "task_stopped"):
        assert {key for kind, key in told if kind == ending} == kinds


@pytest.mark.parametrize("row", IN_A_STOP.strip().split("\n")[1:])
def test_what_a_stop_makes_of_requests(row: str) -> None:
    kind, *marks = row.split()
    states = IN_A_STOP.split("\n")[1].split()[1:]
    for state, mark in zip(states, marks, strict=True):
        run = stopping(state).run
        event = TaskStopped(key="score-001-student-practice-0000") if kind == "task_stopped" else REQUESTS[kind]
        assert outcome(run, event) == mark, state


@pytest.mark.parametrize("key", ["", "train", "train-x", "generate-001", "score-001", "bake-001", "judge"])
def test_a_key_that_no_command_has_is_impossible(key: str) -> None:
    with pytest.raises(Impossible):
        decide(moment("distill", Stage.REFINING, ""), TaskFailed(key=key, failure=failure("internal", "x")))
    with pytest.raises(ValueError, match=r"no command has the key|invalid literal"):
        whereabouts(key)


def test_an_answer_to_another_kind_of_command_is_impossible() -> None:
    story = Story().until(Stage.REFINING)
    piece = chunk()
    story.generated("generate-001-student", piece)
    for key in ("generate-001-student", f"score-001-{piece.name}", "correct-001-0000-1", "prepare"):
        with pytest.raises(Impossible, match="does not answer"):
            story.tell(ANSWERS["judge"].model_validate({"key": key, "path": "p", "admitted": 1, "refused": 0}))


def outcome(run: Run, event: Event) -> str:
    try:
        if is_stale(run, event):
            assert decide(run, event) == (run, ())
            return "."
        after, commands = decide(run, event)
    except Impossible:
        return "!"
    if isinstance(event, TaskStopped) and [c.key for c in commands] == [event.key]:
        assert after.open == run.open
        return "="
    if commands or (after.stage, after.epoch) != (run.stage, run.epoch):
        return ">"
    assert after != run
    return "+"


def named(key: str, run: Run) -> str:
    now = max(run.epoch, 1)
    return key.format(old=f"{now - 1:03d}", now=f"{now:03d}", new=f"{now + 1:03d}")


def fact(run: Run, kind: str, key: str) -> Event:
    if kind in REQUESTS:
        return REQUESTS[kind] if key == "·" else TimeLimitReached(stage=Stage(key))
    if kind == "task_failed":
        return TaskFailed(key=key, failure=failure("internal", "it broke"))
    if kind == "task_stopped":
        return TaskStopped(key=key)
    if kind == "chunk_generated":
        return ChunkGenerated(key=key, chunk=chunk(7, "practice", key.rsplit("-", maxsplit=1)[-1]))
    return report(run.open[key]) if key in run.open else late(kind, key)


def report(command: Command) -> Event:
    """An answer after which there is something to do: poor scores, chunks that nobody has heard of, refused corrections."""
    if isinstance(command, Score):
        return answer(command, **scores(command.chunk, 4.0, poor=command.chunk.count))
    if isinstance(command, Generate):
        return answer(command, chunks=[chunk(i, prompt_set, command.model) for prompt_set in command.sets for i in range(2)])
    return answer(command, refused=1) if command.kind == "judge" else answer(command)


def late(kind: str, key: str) -> Event:
    """A fact about a command that is not open, so that its contents are never looked at."""
    contents = {
        **dict.fromkeys(("resource_id", "train_path", "val_path", "prompts_path", "path", "adapter_path", "outputs_path"), "p"),
        **dict.fromkeys(("files", "train", "val", "practice", "dev", "test", "answered", "failed", "requested"), 1),
        **dict.fromkeys(("train_loss", "steps", "rows", "tokens", "admitted", "refused", "count", "poor", "compiling"), 1),
        **{"chunk": "c", "chunks": (), "overall": 1, "parts": (1, 1, 1, 1)},
        "comparison": {"prompts": 1, "samples": 1, "base": {}, "best": {}, "difference": 0, "low": 0, "high": 0},
    }
    return next(a for a in ANSWERS.values() if a.model_fields["type"].default == kind).model_validate({"key": key, **contents})


@cache
def moment(recipe: str, stage: Stage, key: str) -> Run:
    """The run in `stage`, when the command named `key` is first open there; else when it has just come there."""
    story = Story(recipe=recipe, **SECTIONS)
    if stage in (Stage.FAILED, Stage.ABORTED):
        story.until(Stage.TRAINING, 2 if recipe == "distill" else 1)
        story.tell(AbortRequested()) if stage == Stage.ABORTED else None
        story.failed(story.open[0])
        return story.until(stage).run
    story.until(stage, 2 if stage in (Stage.TRAINING, Stage.REFINING) and recipe == "distill" else None)
    first = story.run
    while story.run.stage == stage and (story.run.epoch == first.epoch) and story.run.open:
        if named(key, first) in story.run.open:
            return story.run
        story.tell(report(next(iter(story.run.open.values()))))
    return first


def stopping(state: str) -> Story:
    """A run in refining: `going`, or on its way to a stop, one score still in hand (none, once `paused`)."""
    story = Story(compute={"kind": "ec2"}).until(Stage.REFINING)
    story.generated("generate-001-student", chunk())
    match state:
        case "pausing" | "paused":
            story.tell(PauseRequested())
        case "aborting":
            story.tell(AbortRequested())
        case "limit":
            story.tell(TimeLimitReached())
        case "failing":
            story.failed("generate-001-student")
    if state != "failing":
        story.stopped("generate-001-student")
    if state == "paused":
        story.stopped("score-001-student-practice-0000")
    return story
