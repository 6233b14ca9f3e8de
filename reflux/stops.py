"""What ends a run, or lets it rest, before its work is done. Pure, as the loop is."""

from reflux import steps
from reflux.errors import failure
from reflux.run import Run
from reflux.stages import Stage


def out_of_time(run: Run, stage: Stage | None) -> steps.Step:
    """The run has reached its limit, or that of `stage`, which it is in. A comparison can be left out; all else ends the run."""
    limits = run.spec.limits
    span = limits.max_runtime if stage is None else getattr(limits.max_stage_runtime, stage)
    name = "max_runtime" if stage is None else f"max_stage_runtime.{stage}"
    where = f"{run.stage}, epoch {run.epoch}" if run.epoch else run.stage
    why = failure("stage_timeout", f"limits.{name} ({span.total_seconds() / 3600:g} h) was reached in {where}")
    if stage == Stage.EVALUATING:
        return steps.without_comparison(run, why)
    if stage == Stage.EXPORTING:
        return steps.fail(run, why)
    return run.but(stopping="limit", paused=False, parked=(), error=why, reason="time limit"), ()


def come_to_rest(run: Run) -> steps.Step:
    """Nothing is in hand any more: go where the stop leads."""
    match run.stopping:
        case "pause":
            return run.but(paused=True), ()
        case "limit" if run.adapter_path is not None:
            return steps.export(run.but(stopping=None, parked=(), partial=True))
        case "limit" if run.job_path is not None:
            return steps.deliver(run.but(stopping=None, parked=()), run.job_path)
        case "abort":
            return steps.clean_up(run.but(partial=run.adapter_path is not None), "aborted")
        case _:
            return steps.clean_up(run.but(partial=run.adapter_path is not None), "failed")
