"""What follows when a run takes an arrow of `loop.decide`: the run's new state, and the commands. Pure, as the loop is."""

from collections.abc import Sequence

from reflux import budget, convergence
from reflux.commands import (
    Chunk,
    CleanUp,
    Command,
    Compare,
    Correct,
    Deliver,
    ExportModel,
    Generate,
    Judge,
    Prepare,
    Provision,
    Review,
    RunJob,
    Score,
    Teach,
    Train,
)
from reflux.errors import Failure, failure
from reflux.events import (
    ChunkScored,
    CorrectionsJudged,
    CorrectionsReviewed,
    CorrectionsWritten,
    PromptsTaught,
)
from reflux.run import Outcome, Run, ScoredChunk, epoch_metrics, summary
from reflux.stages import Stage
from reflux.summary import Usage

Step = tuple[Run, Sequence[Command]]

SHARD = 50  # corrections a task, where they have to wait for all scores


# Before the loop


def prepare(run: Run) -> Step:
    if run.origin:  # its dataset is there, and what was taught
        return train(run)
    return run.but(stage=Stage.PREPARING), [Prepare(stage=Stage.PREPARING)]


def teach(run: Run) -> Step:
    assert run.dataset is not None
    spec = run.spec.teaching
    if run.spec.recipe != "distill" or not spec.enabled or not run.dataset.practice:
        return train(run)
    wanted = min(run.dataset.practice, spec.max_prompts or run.dataset.practice)
    starts = range(0, wanted, spec.shard_size)
    return run.but(stage=Stage.TEACHING), [
        Teach(
            stage=Stage.TEACHING,
            shard=shard,
            start=start,
            stop=(stop := min(start + spec.shard_size, wanted)),
            prompts_path=run.dataset.prompts_path,
            budget_usd=budget.share(run, stop - start, wanted),
        )
        for shard, start in enumerate(starts)
    ]


def taught(run: Run, event: PromptsTaught) -> Step:
    run = run.but(
        taught_paths=tuple(sorted((*run.taught_paths, event.path))),
        taught=run.taught + event.answered,
        usage=run.usage + event.usage,
    )
    if event.failed:
        run = run.warned(f"The teacher did not answer {event.failed} of the prompts of {event.key}")
    return within_budget(run, event.unasked) or after_teaching(run)


def after_teaching(run: Run) -> Step:
    if run.open or run.parked or run.ending:
        return run, ()
    if run.taught == 0 and run.spec.teaching.required:
        return fail(run, run.teaching_failure or failure("teaching_failed", "The teacher answered none of the prompts"))
    return train(run)


# The loop


def train(run: Run) -> Step:
    """Begin the next epoch."""
    epoch = run.epoch + 1
    run = run.but(
        stage=Stage.TRAINING,
        epoch=epoch,
        trained=None,
        chunks={},
        asked=False,
        requested=0,
        admitted=0,
        refused=0,
        epoch_usage=Usage(),
        seconds={},
    )
    if run.spec.recipe == "job":
        return run, [RunJob(stage=Stage.TRAINING, epoch=epoch)]
    assert run.dataset is not None
    last = run.epochs[-1].adapter_path if run.epochs else None
    return run, [
        Train(
            stage=Stage.TRAINING,
            epoch=epoch,
            train_path=run.dataset.train_path,
            val_path=run.dataset.val_path,
            taught_paths=run.taught_paths,
            corrections_paths=run.corrections_paths,
            adapter_path=None if run.spec.training.restart_from_base else last,
        )
    ]


def refine(run: Run) -> Step:
    """Let the student answer what it practises, and what chooses the best adapter."""
    assert run.dataset is not None
    assert run.trained is not None
    if run.spec.recipe != "distill":
        return evaluate(run.but(epochs=(*run.epochs, epoch_metrics(run)), reason=run.reason or "trained"))
    return run.but(stage=Stage.REFINING), [
        Generate(
            stage=Stage.REFINING,
            epoch=run.epoch,
            model="student",
            sets=("practice", "dev") if run.dataset.dev else ("practice",),
            max_new_tokens=run.spec.generation.max_new_tokens,
            prompts_path=run.dataset.prompts_path,
            adapter_path=run.trained.adapter_path,
        )
    ]


def score(run: Run, chunks: Sequence[Chunk]) -> Step:
    new = [chunk for chunk in chunks if chunk.name not in run.chunks]
    run = run.but(chunks=run.chunks | {chunk.name: ScoredChunk(chunk=chunk) for chunk in new})
    return run, [Score(stage=run.stage, epoch=run.epoch, chunk=chunk) for chunk in new]


def correct(run: Run, before: Run, event: ChunkScored) -> Step:
    asked = before.open[event.key]
    assert isinstance(asked, Score)
    chunk = asked.chunk
    run = run.but(chunks=run.chunks | {chunk.name: ScoredChunk(chunk=chunk, scored=event)})
    if chunk.set != "practice" or not event.poor or not run.corrects or not run.corrects_at_once:
        return run, ()
    return run, [
        Correct(
            stage=Stage.REFINING,
            epoch=run.epoch,
            shard=chunk.index,
            answers_paths=(chunk.path,),
            verdicts_paths=(event.path,),
            budget_usd=budget.share(run, chunk.count, chunk.count + unscored(run)),
        )
    ]


def unscored(run: Run) -> int:
    """How many answers to practice prompts are still to be scored in this epoch."""
    assert run.dataset is not None
    return run.dataset.practice - sum(c.chunk.count for c in run.chunks.values() if c.scored and c.chunk.set == "practice")


def judge(run: Run, before: Run, event: CorrectionsWritten) -> Step:
    asked = before.open[event.key]
    assert isinstance(asked, Correct)
    run = run.but(
        usage=run.usage + event.usage,
        epoch_usage=run.epoch_usage + event.usage,
        requested=run.requested + (event.requested if asked.ask == 1 else 0),
    )
    if event.answered < event.requested:
        run = run.warned(
            f"Epoch {run.epoch}: the teacher left {event.requested - event.answered} corrections of {event.key} open"
        )
    judge = Judge(stage=Stage.REFINING, epoch=run.epoch, shard=asked.shard, ask=asked.ask, corrections_path=event.path)
    return within_budget(run, event.unasked) or (run, [judge] if event.answered else [])


def admit(run: Run, before: Run, event: CorrectionsJudged) -> Step:
    """Keep what beats the student's answer for the next epoch; what does not is asked for once more."""
    judged = before.open[event.key]
    assert isinstance(judged, Judge)
    epoch, shard, ask = judged.epoch, judged.shard, judged.ask
    run = run.but(
        admitted=run.admitted + event.admitted,
        refused=run.refused - event.admitted if ask == 2 and not judged.edited else run.refused + event.refused,
    )
    commands = list[Command]()
    if event.admitted and run.spec.refining.review and not judged.edited:
        commands.append(Review(stage=Stage.REFINING, epoch=epoch, shard=shard, ask=ask, corrections_path=event.path))
    elif event.admitted:
        run = run.but(corrections_paths=tuple(sorted((*run.corrections_paths, event.path))))
    if event.refused and ask == 1 and not judged.edited:
        share = budget.share(run, event.refused, event.refused + unscored(run))
        commands.append(Correct(stage=Stage.REFINING, epoch=epoch, shard=shard, ask=2, refused_path=event.path, budget_usd=share))
    return run, commands


def reviewed(run: Run, before: Run, event: CorrectionsReviewed) -> Step:
    """Train on what a person has let pass; what a person has rewritten is judged as the teacher's was."""
    review = before.open[event.key]
    assert isinstance(review, Review)
    paths = (*run.corrections_paths, event.path) if event.admitted else run.corrections_paths
    run = run.but(
        admitted=run.admitted - event.refused - event.edited,
        refused=run.refused + event.refused,
        corrections_paths=tuple(sorted(paths)),
    )
    if event.edited_path is None:
        return run, ()
    return run, [
        Judge(
            stage=Stage.REFINING,
            epoch=review.epoch,
            shard=review.shard,
            ask=review.ask,
            edited=True,
            corrections_path=event.edited_path,
        )
    ]


def without(run: Run, before: Run, key: str, why: Failure) -> Step:
    """Go on without what failed: unscored answers count as 0, missing corrections are missing."""
    command = before.open[key]
    if isinstance(command, Score):
        chunk = command.chunk
        zero = ChunkScored(
            key=key, chunk=chunk.name, path="", count=chunk.count, poor=chunk.count, compiling=0, overall=0, parts=(0, 0, 0, 0)
        )
        run = run.but(chunks=run.chunks | {chunk.name: ScoredChunk(chunk=chunk, scored=zero)})
        return run.warned(f"Epoch {run.epoch}: {chunk.count} answers count as 0: {why}"), ()
    return run.warned(f"Epoch {run.epoch} goes on without the corrections of {key}: {why}"), ()


def or_onward(run: Run, commands: Sequence[Command]) -> Step:
    """Once nothing is open any more: the corrections that had to wait, the next epoch, or what comes after."""
    if run.open or run.parked or commands or run.ending:
        return run, commands
    if run.stage == Stage.EVALUATING:
        return compare(run)
    if run.corrects and not run.corrects_at_once and not run.asked:
        run, commands = correct_the_worst(run.but(asked=True))
        if commands:
            return run, commands
    return finish_epoch(run)


def correct_the_worst(run: Run) -> Step:
    chunks = [c for _, c in sorted(run.chunks.items()) if c.scored and c.scored.path and c.chunk.set == "practice"]
    poor = sum(c.scored.poor for c in chunks if c.scored)
    wanted = min(poor, run.spec.refining.max_corrections)
    shards = -(-wanted // SHARD)
    return run, [
        Correct(
            stage=Stage.REFINING,
            epoch=run.epoch,
            shard=shard,
            shards=shards,
            limit=run.spec.refining.max_corrections,
            answers_paths=tuple(c.chunk.path for c in chunks),
            verdicts_paths=tuple(c.scored.path for c in chunks if c.scored),
            budget_usd=budget.share(run, 1, shards),
        )
        for shard in range(shards)
    ]


def finish_epoch(run: Run) -> Step:
    run = run.but(epochs=(*run.epochs, epoch_metrics(run)))
    decision = convergence.check(run.epochs, run.spec.refining)
    if decision.reason is None:
        return train(run)
    return evaluate(run.but(reason=decision.reason))


# After the loop


def evaluate(run: Run) -> Step:
    """Measure base and best on the test prompts, which nobody has looked at before."""
    assert run.dataset is not None
    if not run.spec.evaluation.enabled or not run.dataset.test or run.best is None:
        return export(run)
    adapters = {"base": None, "best": run.best.adapter_path}
    return run.but(stage=Stage.EVALUATING, chunks={}), [
        Generate(
            stage=Stage.EVALUATING,
            epoch=run.epoch,
            model="base" if adapter is None else "best",
            sets=("test",),
            samples=run.spec.generation.test_samples,
            max_new_tokens=run.spec.generation.test_max_new_tokens,
            prompts_path=run.dataset.prompts_path,
            adapter_path=adapter,
        )
        for adapter in adapters.values()
    ]


def compare(run: Run) -> Step:
    def paths(model: str) -> tuple[str, ...]:
        return tuple(c.scored.path for _, c in sorted(run.chunks.items()) if c.scored and c.chunk.model == model)

    return run, [Compare(stage=Stage.EVALUATING, epoch=run.epoch, base_paths=paths("base"), best_paths=paths("best"))]


def without_comparison(run: Run, why: Failure) -> Step:
    run = run.warned(f"The test prompts were not evaluated: {why}")
    kept = {key: command for key, command in run.open.items() if isinstance(command, Provision)}
    return (run, ()) if run.ending else export(run.but(open=kept, parked=()))


def export(run: Run) -> Step:
    assert run.adapter_path is not None
    commands: list[Command] = [ExportModel(stage=Stage.EXPORTING, epoch=run.epoch, adapter_path=run.adapter_path)]
    machine = Provision(stage=Stage.PROVISIONING, number=run.machine_number)
    if run.spec.compute.kind != "local" and not run.has_machine and machine.key not in run.open:
        commands.append(machine)  # a stop has kept it from being replaced
    return run.but(stage=Stage.EXPORTING), commands


def deliver(run: Run, path: str) -> Step:
    return run.but(stage=Stage.EXPORTING), [
        Deliver(
            stage=Stage.EXPORTING,
            epoch=run.epoch,
            model_path=path,
            train_path=run.dataset.train_path if run.dataset else None,
            summary=summary(run),
        )
    ]


def clean_up(run: Run, outcome: Outcome) -> Step:
    run = run.but(stage=Stage.CLEANING_UP, stopping=None, paused=False, parked=(), open={}, outcome=outcome)
    return run, [
        CleanUp(
            stage=Stage.CLEANING_UP,
            epoch=run.epoch,
            discard=run.discard,
            resource_ids=run.resource_ids,
            prompts_path=run.dataset.prompts_path if run.dataset else None,
            summary=summary(run),
        )
    ]


def end(run: Run) -> Step:
    assert run.outcome is not None
    return run.but(stage=Stage(run.outcome), open={}), ()


# Stops


def fail(run: Run, why: Failure) -> Step:
    """End the run as failed, once what else is in hand has been stopped."""
    if run.ending:
        return run, ()
    return run.but(stopping="failure", error=why, reason=why.message, parked=()), ()


def within_budget(run: Run, unasked: int) -> Step | None:
    """None while there is money left; `unasked` prompts show that there is not enough."""
    limit = run.spec.limits.max_teacher_cost_usd
    if limit is None or not (unasked or run.usage.cost_usd >= limit) or run.ending:
        return None
    cost = f"The teacher has cost ${run.usage.cost_usd:.4f}, and a further call could pass the limit of ${limit:.2f}"
    error = failure("budget_exhausted", cost)
    return run.but(stopping="limit", error=error, reason="cost limit", parked=()), ()


def plus(seconds: dict[str, float], kind: str, more: float) -> dict[str, float]:
    return seconds | {kind: seconds.get(kind, 0.0) + more} if more else seconds
