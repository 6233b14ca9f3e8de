"""The run, decided without I/O, clock or randomness.

    queued ─► validating ─► (provisioning) ─► preparing ─► teaching
                                                              │
         ┌────────────────────────────────────────────────────┘
         ▼
      training ◄───────────────────────────────────────────────────┐
         │ AdapterTrained                                          │ not good enough yet:
         ▼                                                         │ corrections flow back
      refining:  generate ─► score ─► correct ─► judge ─► (review)─┤
                                                                   │ converged, or max epochs
         ┌─────────────────────────────────────────────────────────┘
         ▼
      evaluating ─► exporting ─► cleaning_up ─► succeeded · failed · aborted

`decide` takes a run and an event, and gives the run as it is afterwards and the commands that follow. Its cases stand
in the order in which a run takes them. A fact that comes too late changes nothing; one that no run could see raises.
"""

from reflux import replacements, steps, stops
from reflux.commands import Preflight, Provision, kind_of, whereabouts
from reflux.estimate import estimate
from reflux.events import (
    ANSWERS,
    AbortRequested,
    AdapterTrained,
    Answering,
    AnswersGenerated,
    ChunkGenerated,
    ChunkScored,
    CleanedUp,
    CleanupOverdue,
    CorrectionsJudged,
    CorrectionsReviewed,
    CorrectionsWritten,
    DatasetPrepared,
    Event,
    JobFinished,
    MachineLost,
    MachineProvisioned,
    ModelExported,
    ModelsCompared,
    PauseRequested,
    PreflightPassed,
    PromptsTaught,
    ResultsDelivered,
    ResumeRequested,
    RunAdmitted,
    TaskFailed,
    TaskStopped,
    TimeLimitReached,
)
from reflux.run import Run
from reflux.stages import Stage

ENDING = (Stage.CLEANING_UP, Stage.SUCCEEDED, Stage.FAILED, Stage.ABORTED)


class Impossible(Exception):
    """No history of this run could have led to this event: a defect, never a late message."""


def decide(run: Run, event: Event) -> steps.Step:
    """The run after `event`, and the commands that follow from it. A late or doubled event changes nothing."""
    if is_stale(run, event):
        return run, ()
    before = run
    if isinstance(event, Answering):
        run = run.but(open={k: c for k, c in run.open.items() if k != event.key}).warned(*event.warnings)
        run = run.but(seconds=steps.plus(run.seconds, kind_of(event.key), event.seconds))
    run, commands = _follow(run, before, event)
    if run.stopping:
        run, commands = run.but(parked=run.parked + tuple(commands)), ()
    if run.stopping and not run.open:
        run, commands = stops.come_to_rest(run)
    return run.but(open=run.open | {c.key: c for c in commands}), tuple(commands)


def is_stale(run: Run, event: Event) -> bool:
    """Whether `event` comes too late to matter. Raises Impossible for what cannot be late, and cannot be now."""
    match event:
        case RunAdmitted():
            return run.stage != Stage.QUEUED or run.paused
        case AbortRequested():
            return run.stage in ENDING or run.stopping in ("abort", "failure")
        case PauseRequested():
            return run.stage in ENDING or run.stopping is not None
        case ResumeRequested():
            return run.stopping != "pause"
        case TimeLimitReached(stage=stage):
            if stage is not None and getattr(run.spec.limits.max_stage_runtime, stage, None) is None:
                raise Impossible(f"{stage} has no limit")
            over = run.stage in (Stage.EXPORTING, *ENDING) if stage is None else run.stage != stage
            return over or run.stopping in ("abort", "failure", "limit")
        case CleanupOverdue():
            return run.stage != Stage.CLEANING_UP
        case MachineLost(number=number):
            if run.spec.compute.kind == "local" or run.stage.order < Stage.PROVISIONING.order or number > run.machine_number:
                raise Impossible(f"machine_lost for machine {number} in {run.stage}")
            return run.stage in ENDING or run.stopping in ("abort", "failure") or number < run.machine_number
    if not _can_answer(event.key, event):
        raise Impossible(f"{event.type} does not answer {event.key}")
    if event.key in run.open:
        return False
    try:
        stage, epoch = whereabouts(event.key)
    except ValueError as unknown:
        raise Impossible(str(unknown)) from unknown
    if (run.epoch if epoch is None else epoch, stage.order) <= (run.epoch, run.stage.order):
        return True
    raise Impossible(f"{event.type} for {event.key} in {run.stage}, epoch {run.epoch}")


def _can_answer(key: str, event: Event) -> bool:
    kind = kind_of(key)
    match event:
        case TaskFailed() | TaskStopped():
            return kind in ANSWERS
        case ChunkGenerated():
            return kind == "generate"
    return type(event) is ANSWERS.get(kind)


def _follow(run: Run, before: Run, event: Event) -> steps.Step:
    match run.stage, event:
        # People and the clock
        case _, AbortRequested(discard=discard):
            return run.but(stopping="abort", paused=False, parked=(), discard=discard, reason="aborted by its user"), ()
        case _, TimeLimitReached(stage=stage):
            return stops.out_of_time(run, stage)
        case _, PauseRequested():
            return run.but(stopping="pause"), ()
        case _, ResumeRequested():
            return run.but(stopping=None, paused=False, parked=()), run.parked
        case _, TaskStopped(key=key):
            return run, () if run.ending else (before.open[key],)

        # Machines, whatever their run is at
        case _, MachineLost():
            return replacements.replace(run, event)
        case _, MachineProvisioned(resource_id=resource_id):
            return replacements.go_on(run.but(resource_ids=(*run.resource_ids, resource_id)))
        case _, TaskFailed(key=key, failure=why) if kind_of(key) == "provision":
            return steps.fail(run, why)

        # Before the loop
        case Stage.QUEUED, RunAdmitted():
            return run.but(stage=Stage.VALIDATING), [Preflight(stage=Stage.VALIDATING)]
        case Stage.VALIDATING, PreflightPassed():
            if run.spec.compute.kind == "local":
                return steps.prepare(run)
            return run.but(stage=Stage.PROVISIONING), [Provision(stage=Stage.PROVISIONING)]
        case Stage.PREPARING, DatasetPrepared():
            expected = estimate(run.spec, event.practice, event.practice_characters)
            return steps.teach(run.but(dataset=event, estimate=expected))
        case Stage.TEACHING, PromptsTaught():
            return steps.taught(run, event)
        case Stage.TEACHING, TaskFailed(failure=why):
            return steps.after_teaching(run.but(teaching_failure=why).warned(f"Some prompts were not taught: {why}"))

        # The loop
        case Stage.TRAINING, AdapterTrained():
            return steps.refine(run.but(trained=event))
        case Stage.TRAINING, JobFinished(outputs_path=path):
            return steps.deliver(run.but(job_path=path), path)
        case ((Stage.REFINING | Stage.EVALUATING), ChunkGenerated(chunk=chunk)):
            return steps.score(run, [chunk])
        case ((Stage.REFINING | Stage.EVALUATING), AnswersGenerated(chunks=chunks)):
            return steps.or_onward(*steps.score(run, chunks))
        case ((Stage.REFINING | Stage.EVALUATING), ChunkScored()):
            return steps.or_onward(*steps.correct(run, before, event))
        case Stage.REFINING, CorrectionsWritten():
            return steps.or_onward(*steps.judge(run, before, event))
        case Stage.REFINING, CorrectionsJudged():
            return steps.or_onward(*steps.admit(run, before, event))
        case Stage.REFINING, CorrectionsReviewed():
            return steps.or_onward(*steps.reviewed(run, before, event))
        case Stage.REFINING, TaskFailed(key=key, failure=why) if kind_of(key) != "generate":
            return steps.or_onward(*steps.without(run, before, key, why))

        # After the loop
        case Stage.EVALUATING, ModelsCompared(comparison=comparison):
            return steps.export(run.but(comparison=comparison))
        case Stage.EVALUATING, TaskFailed(failure=why):
            return steps.without_comparison(run, why)
        case Stage.EXPORTING, ModelExported(path=path):
            return steps.deliver(run.but(model_path=path), path)
        case Stage.EXPORTING, ResultsDelivered():
            return (run, ()) if run.ending else steps.clean_up(run, "failed" if run.error else "succeeded")
        case Stage.CLEANING_UP, CleanedUp(manual_action_required=manual):
            return steps.end(run.but(manual_action_required=manual))
        case Stage.CLEANING_UP, (TaskFailed() | CleanupOverdue()):
            return steps.end(run.but(manual_action_required=True).warned("Cleanup is not finished; see `reflux verify-cleanup`"))

        case _, TaskFailed(failure=why):
            return steps.fail(run, why)
    raise Impossible(f"{event.type} in {run.stage}")
