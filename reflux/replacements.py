"""What follows when a run's own machine is lost: another one, as often as the errors' table says. Pure, as the loop is.

The run stays where it is. Its GPU tasks wait for the next machine, and go on there from their last pieces.
"""

from reflux import steps
from reflux.commands import ExportModel, Provision
from reflux.errors import next_wait
from reflux.events import MachineLost
from reflux.run import LostMachine, Run
from reflux.stages import Stage


def replace(run: Run, event: MachineLost) -> steps.Step:
    """Another machine, for as often as the error's waits allow, while there is still something for it to do."""
    why = event.failure
    lost = LostMachine(code=why.code, id=run.resource_ids[-1] if run.has_machine else None)
    waited_for = Provision(stage=Stage.PROVISIONING, number=event.number).key
    run = run.but(
        lost_machines=(*run.lost_machines, lost),
        open={key: command for key, command in run.open.items() if key != waited_for},
        parked=tuple(command for command in run.parked if command.key != waited_for),
    )
    if run.ending or not _needs_machine(run):
        return run, ()
    times = sum(lost.code == why.code for lost in run.lost_machines)
    wait = next_wait(why.code, times)
    if wait is None:
        told = why.model_copy(update={"message": f"{why.message}. It is the {times}. machine of this run that was lost so"})
        return steps.fail(run, told if times > 1 else why)
    run = run.warned(f"Machine {event.number} of this run was lost, and another takes its place: {why}")
    return run, [Provision(stage=Stage.PROVISIONING, number=run.machine_number, wait_seconds=wait)]


def _needs_machine(run: Run) -> bool:
    exports = any(isinstance(command, ExportModel) for command in (*run.open.values(), *run.parked))
    return exports or run.stage.order < Stage.EXPORTING.order


def go_on(run: Run) -> steps.Step:
    """The machine works. Whatever else is in hand has gone on meanwhile, and may have nothing left to wait for."""
    match run.stage:
        case Stage.PROVISIONING:
            return steps.prepare(run)
        case Stage.TEACHING:
            return steps.after_teaching(run)
        case Stage.REFINING | Stage.EVALUATING:
            return steps.or_onward(run, ())
    return run, ()
