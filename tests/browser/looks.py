"""One run in each look that a run can have, the newest last."""

from datetime import timedelta

from reflux.commands import Train
from reflux.events import AbortRequested, PauseRequested
from reflux.protocol import LogLine
from tests.browser.world import World, before, spec

HOUR = timedelta(hours=1)


def make(world: World) -> dict[str, str]:
    """Run ids by look. Answers, verdicts and corrections are real in `succeeded`, `review` and `aborted`."""
    world.register()
    return {
        "succeeded": succeeded(world),
        "failed": failed(world),
        "aborted": aborted(world),
        "paused": paused(world),
        "orphaned": orphaned(world),
        "review": review(world),
        "aborting": aborting(world),
        "active": active(world),
        "waiting": waiting(world),
    }


def succeeded(world: World) -> str:
    run_id = world.create(spec("tsn-gate-student"))
    world.play(run_id)
    assert world.row(run_id).status == "succeeded"
    return world.settle(run_id, 26 * HOUR)


def failed(world: World) -> str:
    run_id = world.create(spec("granite-8b-long-context", training={"max_length": 16384}))
    training = world.play(run_id, before("train"))
    assert training is not None
    told = "CUDA out of memory: tried to allocate 3.2 GB, 0.9 GB of 24.0 GB are free"
    world.beat(training, logs=[LogLine(line="149 rows: 400 steps of 8 rows"), LogLine(line=told, level="error")])
    world.fail(training, "gpu_out_of_memory", f"{told}.")
    world.play(run_id)
    assert world.row(run_id).status == "failed"
    return world.settle(run_id, 20 * HOUR)


def aborted(world: World) -> str:
    run_id = world.create(spec("avb-stream-student"))
    training = world.play(run_id, before("train", epoch=2))
    assert training is not None
    world.tell(run_id, AbortRequested(by="ada"))
    world.stopped(training)
    world.play(run_id)
    assert world.row(run_id).status == "aborted"
    return world.settle(run_id, 7 * HOUR)


def paused(world: World) -> str:
    run_id = world.create(spec("gptp-clock-student"))
    training = world.play(run_id, before("train"))
    assert training is not None
    world.tell(run_id, PauseRequested(by="ada"))
    world.stopped(training)
    assert world.row(run_id).status == "paused"
    return world.settle(run_id, 3 * HOUR)


def orphaned(world: World) -> str:
    run_id = world.create(spec("sensor-bridge-student"))
    training = world.play(run_id, before("train"))
    assert training is not None
    assert isinstance(training.command, Train)
    world.trained(training, training.command, 0.3)
    world.orphan(training)
    return world.settle(run_id, timedelta(seconds=40))


def review(world: World) -> str:
    run_id = world.create(spec("reviewed-tsn-student", refining={"max_epochs": 3, "review": True}))
    world.play(run_id)
    assert world.row(run_id).status == "refining"
    return world.settle(run_id, HOUR / 2)


def aborting(world: World) -> str:
    run_id = world.create(spec("carla-lidar-student"))
    training = world.play(run_id, before("train"))
    assert training is not None
    world.tell(run_id, AbortRequested(by="ada"))
    assert world.row(run_id).status == "aborting"
    return world.settle(run_id, timedelta(seconds=5))


def active(world: World) -> str:
    run_id = world.create(spec("qbv-schedule-student", refining={"max_epochs": 5}))
    training = world.play(run_id, before("train", epoch=3))
    assert training is not None
    assert isinstance(training.command, Train)
    world.trained(training, training.command, 0.45)
    return world.settle(run_id, timedelta(seconds=4))


def waiting(world: World) -> str:
    run_id = world.create(spec("someip-student"), admitted=False)
    return world.settle(run_id, timedelta(seconds=50))
