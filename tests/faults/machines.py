"""What can become of a run on a machine of its own: to the processes here, to the machine, and by its user's wish."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from reflux.client import Client
from tests.integration.by_hand import eventually
from tests.machines import Machines
from tests.metadata import NOTICE

# Each stage by the claim that shows that it has begun. The machine has no part in what is not named here.
STAGES = {
    "validating": "preflight",
    "provisioning": "provision",
    "training": "train-001",
    "answering": "generate-001-student",
    "evaluating": "generate-001-best",
    "exporting": "export_model",
    "cleaning up": "clean_up",
}
EVERY = tuple(STAGES)
WITH_A_MACHINE = EVERY[1:]
AT_WORK = EVERY[1:-1]
HEARD = AT_WORK[:-1]  # the tiny student's export is over before a machine looks for its notice, every five seconds

Harm = Callable[[Machines, Client, str], None]


@dataclass(frozen=True)
class Fault:
    """`leaves`: a fact that the run's history then has. Not `whole`: the run ends without its samples."""

    name: str
    harm: Harm
    stages: tuple[str, ...] = EVERY
    leaves: str = ""
    whole: bool = True


def killed(name: str) -> Harm:
    return lambda ours, *_: ours.stack.kill(name)


def to_the_machine(harm: Callable[[Machines, str], object]) -> Harm:
    """Once there is one. In cleaning up it may be ended already."""

    def inject(ours: Machines, client: Client, run_id: str) -> None:
        def there() -> list[str]:
            return ours.living(run_id) or (["over"] if client.run(run_id).stage == "cleaning_up" else [])

        [name] = eventually(there, 60, "there is no machine")
        if name != "over":
            harm(ours, name)

    return inject


def worker_killed(ours: Machines, name: str) -> None:
    """As by the kernel, out of memory: the container ends, and the instance shuts down."""
    process = ours.provider.processes.get(name)
    if process:
        process.kill()


def noticed(ours: Machines, name: str) -> None:
    """The newest machine hears that it is taken back; until then its child stands still, or a tiny student would be done."""
    metadata = list(ours.metadata.values())[-1]
    children = children_of(ours, name)
    for one in children:
        one.suspend()
    metadata.notice, asked = NOTICE, len(metadata.asked)
    if children:
        eventually(lambda: 200 in metadata.asked[asked:], 60, "nobody has asked for the notice")
    for one in children:
        one.resume()


def children_of(ours: Machines, name: str) -> list[psutil.Process]:
    """The process that holds the models, once there is one."""
    process = ours.provider.processes.get(name)
    below = psutil.Process(process.pid).children(recursive=True) if process else []
    return [one for one in below if "services.gpu_trainer.child" in " ".join(one.cmdline())]


def aborted(_: Machines, client: Client, run_id: str) -> None:
    if client.run(run_id).stage != "cleaning_up":
        client.abort(run_id)


FAULTS = [
    Fault("control killed", killed("control")),
    Fault("teacher_worker killed", killed("teacher_worker-1")),
    Fault("instance ended by somebody", to_the_machine(lambda ours, name: ours.provider.terminate(name)), WITH_A_MACHINE),
    Fault("instance's worker killed", to_the_machine(worker_killed), WITH_A_MACHINE),
    Fault("spot notice", to_the_machine(noticed), HEARD, leaves="spot_interruption"),
    Fault("spot machine gone unannounced", to_the_machine(lambda ours, name: ours.provider.take_back(name)), AT_WORK),
    Fault("aborted", aborted, whole=False),
]
