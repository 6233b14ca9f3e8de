"""The fault matrix: what is done to a run, and in which stages."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import redis

from reflux.local.stack import Process, Stack
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
WORKERS = ("teacher_worker-1", "evaluator-1", "gpu_trainer-1")
SECOND = "gpu_trainer-2"
ON_THE_GPU = ("training", "answering", "training 2", "evaluating", "exporting")


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
        control_teacher(self)
        if SECOND in self.stack.processes:
            self.stack.stop(SECOND)
            del self.stack.processes[SECOND]
        for name in WORKERS:
            if self.stack.processes[name].env.pop("LD_PRELOAD", None):
                self.stack.stop(name)
                self.stack.start(name)


@dataclass(frozen=True)
class Fault:
    """`inject` when the stage begins; with `from_start` before the run is made. `roads`: it needs the wires.

    `spec` changes the run's. Not `whole`: the run ends, and may lack samples that its twin has.
    """

    name: str
    inject: Callable[[Ground], None]
    stages: tuple[str, ...] = EVERY
    from_start: bool = False
    roads: bool = False
    spec: dict[str, dict[str, Any]] = field(default_factory=dict)
    whole: bool = True


def kill(name: str, number: signal.Signals = signal.SIGKILL) -> Callable[[Ground], None]:
    return lambda ground: ground.stack.kill(name, number)


def to_trainers_child(number: signal.Signals) -> Callable[[Ground], None]:
    """Where there is none, as it has not trained yet, there is nothing to do."""

    def inject(ground: Ground) -> None:
        for child in psutil.Process(ground.stack.pid("gpu_trainer-1")).children(recursive=True):
            if "services.gpu_trainer.child" in " ".join(child.cmdline()):
                os.kill(child.pid, number)

    return inject


def second_trainer(named: str | None = None) -> Callable[[Ground], None]:
    """Another process of the trainer, under a name of its own or under the first one's."""

    def inject(ground: Ground) -> None:
        first = ground.stack.processes["gpu_trainer-1"]
        name = named or first.env["REFLUX_WORKER_NAME"]
        ground.stack.processes[SECOND] = Process(SECOND, first.command, first.env | {"REFLUX_WORKER_NAME": name})
        ground.stack.start(SECOND)

    return inject


def clocks_ahead(ground: Ground) -> None:
    """The workers' wall clocks are ten minutes ahead of everybody else's."""
    library = ground.stack.folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    for name in WORKERS:
        ground.stack.stop(name)
        ground.stack.processes[name].env["LD_PRELOAD"] = str(library)
        ground.stack.start(name)


def control_teacher(ground: Ground, **behaviour: Any) -> None:
    httpx.post(f"http://127.0.0.1:{ground.stack.ports['teacher']}/_control", json=behaviour).raise_for_status()


def teacher(**behaviour: Any) -> Callable[[Ground], None]:
    return lambda ground: control_teacher(ground, **behaviour)


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


CALLS = ("claim", "beat", "complete")
KILLS = [Fault(f"{name} killed", kill(name)) for name in ("api", "control", *WORKERS)]
TERMS = [Fault(f"{name} told to stop", kill(name, signal.SIGTERM)) for name in ("api", "control", *WORKERS)]
SERVERS = [
    Fault("trainer's child killed", to_trainers_child(signal.SIGKILL), ON_THE_GPU),
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
    Fault("teacher's answers malformed", teacher(malformed=0.3), ("all",), from_start=True),
    Fault("teacher silent for 60 s", teacher(latency=60.0), ("teaching", "correcting")),
    Fault("teacher denies access", teacher(deny=True), ("teaching", "correcting"), whole=False),
    Fault("teacher's answers cut", spoilt("teacher", Spoil("cut_after", "POST", "/model/", 0.3)), ("all",), True, True),
]
WORKERS_AMISS = [
    Fault("two gpu_trainers", second_trainer("another"), ("training", "answering")),
    Fault("two gpu_trainers of one name", second_trainer(), ("training", "answering")),
    Fault("trainer's child hangs", to_trainers_child(signal.SIGSTOP), ON_THE_GPU, spec={"limits": {"stall_seconds": 60}}),
    Fault("beats never heard", spoilt("api", Spoil("cut_before", "POST", "/beat$")), ("all",), True, True),
    Fault("workers' clocks 10 min ahead", clocks_ahead, ("all",), from_start=True),
]
FAULTS = [*KILLS, *TERMS, *SERVERS, *RINGS, *PROTOCOL, *STORE, *TEACHER, *WORKERS_AMISS]

# What every test run shows; `make faults` shows the rest too.
SMOKE = {
    ("gpu_trainer-1 killed", "training"),
    ("teacher_worker-1 killed", "teaching"),
    ("control killed", "training"),
    ("valkey flushed", "answering"),
}
