"""The fault matrix: what is done to a run, and in which stages."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import psycopg
import redis

from reflux.local.stack import Stack
from tests.faults.post import Mood, Post
from tests.faults.wire import Spoil, Wire

# Each stage by the claim that shows that it has begun; the stages of users, and within refining its four parts.
STAGES = {
    "validating": "preflight",
    "preparing": "prepare",
    "teaching": "teach-0000",
    "training": "train-001",
    "answering": "generate-001-student",
    "scoring": "score-001-student-practice-0000",
    "correcting": "correct-001-0000-1",
    "judging": "judge-001-0000-1",
    "training 2": "train-002",
    "evaluating": "generate-002-best",
    "exporting": "export_model",
    "delivering": "deliver",
    "cleaning up": "clean_up",
}
EVERY = tuple(STAGES)
OUTAGE_SECONDS = 20.0


@dataclass
class Ground:
    """The stack under test; on `bad roads` also its wires and its postman."""

    stack: Stack
    wires: dict[str, Wire] = field(default_factory=dict)
    post: Post | None = None

    def mend(self) -> None:
        for wire in self.wires.values():
            wire.spoil()
        if self.post:
            self.post.mood = "honest"


@dataclass(frozen=True)
class Fault:
    """`inject` when the stage begins; with `from_start` before the run is made. `roads`: it needs the wires."""

    name: str
    inject: Callable[[Ground], None]
    stages: tuple[str, ...] = EVERY
    from_start: bool = False
    roads: bool = False


def kill(name: str, number: signal.Signals = signal.SIGKILL) -> Callable[[Ground], None]:
    return lambda ground: ground.stack.kill(name, number)


def kill_trainers_child(ground: Ground) -> None:
    """Where there is none, as it has not trained yet, there is nothing to kill."""
    for child in psutil.Process(ground.stack.pid("gpu_trainer-1")).children(recursive=True):
        if "services.gpu_trainer.child" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)


def stopped(name: str, seconds: float = OUTAGE_SECONDS) -> Callable[[Ground], None]:
    def inject(ground: Ground) -> None:
        ground.stack.stop(name)
        time.sleep(seconds)
        ground.stack.start(name)

    return inject


def frozen(name: str, seconds: float) -> Callable[[Ground], None]:
    """The process lives and does nothing, as on a machine that swaps."""

    def inject(ground: Ground) -> None:
        ground.stack.kill(name, signal.SIGSTOP)
        time.sleep(seconds)
        ground.stack.kill(name, signal.SIGCONT)

    return inject


def flush(ground: Ground) -> None:
    with redis.Redis(port=ground.stack.ports["valkey"]) as valkey:
        valkey.flushall()


def killed_empty(ground: Ground) -> None:
    """Valkey is killed and comes back without its file."""
    ground.stack.stop("valkey")
    for file in (ground.stack.folder / "valkey").rglob("*"):
        if file.is_file():
            file.unlink()
    ground.stack.start("valkey")


def cut_connections(ground: Ground) -> None:
    """Every transaction under way in PostgreSQL is lost, three times."""
    url = f"postgresql://postgres@127.0.0.1:{ground.stack.ports['postgres']}/reflux"
    for _ in range(3):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        time.sleep(0.5)


def spoilt(wire: str, *spoils: Spoil) -> Callable[[Ground], None]:
    def inject(ground: Ground) -> None:
        for spoil in spoils:
            spoil.__post_init__()
            spoil.done = 0
        ground.wires[wire].spoil(*spoils)

    return inject


def postman(mood: Mood) -> Callable[[Ground], None]:
    def inject(ground: Ground) -> None:
        assert ground.post
        ground.post.mood = mood

    return inject


WORKERS = ("teacher_worker-1", "evaluator-1", "gpu_trainer-1")
CALLS = ("claim", "beat", "complete")
KILLS = [Fault(f"{name} killed", kill(name)) for name in ("api", "control", *WORKERS)]
TERMS = [Fault(f"{name} told to stop", kill(name, signal.SIGTERM)) for name in ("api", "control", *WORKERS)]
SERVERS = [
    Fault("trainer's child killed", kill_trainers_child, ("training", "answering", "training 2", "evaluating", "exporting")),
    Fault("valkey flushed", flush),
    Fault("valkey away 20 s", stopped("valkey")),
    Fault("valkey killed, empty", killed_empty),
    Fault("postgres away 20 s", stopped("postgres")),
    Fault("postgres killed", kill("postgres")),
    Fault("postgres connections cut", cut_connections),
    Fault("control frozen 15 s", frozen("control", 15), ("training",)),
    Fault("teacher_worker frozen 15 s", frozen("teacher_worker-1", 15), ("teaching", "correcting")),
]
RINGS = [
    Fault(f"rings {mood}", postman(mood), ("all",), from_start=True, roads=True)
    for mood in ("doubling", "dropping", "late", "shuffling")
]
PROTOCOL = [
    Fault(f"{call} {words}", spoilt("api", Spoil(how, "POST", rf"/v1/tasks/\d+/{call}$", **more)), ("all",), True, True)  # type: ignore[arg-type]
    for call in CALLS
    for words, how, more in (
        ("doubled", "twice", {"share": 0.5}),
        ("late", "late", {"share": 0.3, "seconds": 2.0}),
        ("lost", "cut_before", {"share": 0.3}),
        ("done, unheard", "cut_after", {"share": 0.3}),
    )
]
STORE = [
    Fault("store busy (503)", spoilt("store", Spoil("unavailable", share=0.15)), ("all",), True, True),
    Fault("store away", spoilt("store", Spoil("cut_before", share=0.15)), ("all",), True, True),
    Fault("store writes done, unheard", spoilt("store", Spoil("cut_after", "PUT", share=0.2)), ("all",), True, True),
    Fault("store slow", spoilt("store", Spoil("slow", share=0.3, seconds=1.0)), ("all",), True, True),
]
TEACHER = [
    Fault("teacher 30 % throttled", spoilt("teacher", Spoil("unavailable", "POST", "/model/", 0.3)), ("all",), True, True),
    Fault("teacher's answers cut", spoilt("teacher", Spoil("cut_after", "POST", "/model/", 0.3)), ("all",), True, True),
]
FAULTS = [*KILLS, *TERMS, *SERVERS, *RINGS, *PROTOCOL, *STORE, *TEACHER]

# What every test run shows; `make faults` shows the rest too.
SMOKE = {
    ("gpu_trainer-1 killed", "training"),
    ("teacher_worker-1 killed", "teaching"),
    ("control killed", "training"),
    ("valkey flushed", "answering"),
}
