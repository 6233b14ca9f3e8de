"""The fault matrix: what is done to a run, and in which stages."""

import signal
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.faults.harm import (
    WORKERS,
    Harm,
    all_of,
    clocks_ahead,
    conflicts,
    cut_connections,
    flush,
    frozen,
    full,
    kill,
    killed_empty,
    postman,
    second_trainer,
    short_lease,
    spoilt,
    stopped,
    teacher,
    to_trainers_child,
    told_to_stop,
)
from tests.faults.wire import How, Spoil

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
ON_THE_GPU = ("training", "answering", "training 2", "evaluating", "exporting")
ON_SCRATCH = ("preparing", "training", "answering", "scoring")  # later the little that is written is written too soon


@dataclass(frozen=True)
class Fault:
    """`harm` is done when the stage begins; with `from_start` before the run is made. `ground`: the fixture it is done on.

    `spec` changes the run's. `leaves`: an event that the run's history must have. Not `whole`: the run ends, and may lack
    samples that its twin has.
    """

    name: str
    harm: Harm
    stages: tuple[str, ...] = EVERY
    from_start: bool = False
    ground: Literal["level_ground", "bad_roads", "small_disks"] = "level_ground"
    spec: dict[str, dict[str, Any]] = field(default_factory=dict)
    leaves: str = ""
    whole: bool = True


def all_along(name: str, harm: Harm) -> Fault:
    """A fault that needs the wires, and lasts from before the run until its end."""
    return Fault(name, harm, ("all",), from_start=True, ground="bad_roads")


def call(name: str, how: How, **more: Any) -> Harm:
    return spoilt("api", Spoil(how, "POST", rf"/v1/tasks/\d+/{name}$", **more))


def on_disk(name: str, harm: Harm, stages: tuple[str, ...], **more: Any) -> Fault:
    return Fault(name, harm, stages, ground="small_disks", spec={"limits": {"min_disk_gb": 0.01}}, leaves="task_retried", **more)


HOWS: dict[str, How] = {"doubled": "twice", "late": "late", "lost": "cut_before", "done, unheard": "cut_after"}
KILLS = [Fault(f"{name} killed", kill(name)) for name in ("api", "control", *WORKERS)]
TERMS = [Fault(f"{name} told to stop", told_to_stop(name)) for name in ("api", "control", *WORKERS)]
SERVERS = [
    Fault("trainer's child killed", to_trainers_child(signal.SIGKILL), ON_THE_GPU),
    Fault("valkey flushed", flush),
    Fault("valkey away 20 s", stopped("valkey")),
    Fault("valkey killed, empty", killed_empty),
    Fault("postgres away 20 s", stopped("postgres")),
    Fault("postgres killed", kill("postgres")),
    Fault("postgres connections cut", cut_connections),
    Fault("postgres can not serialize", conflicts, ("all",), from_start=True),
    Fault("control frozen 15 s", frozen("control", 15), ("training",)),
    Fault("teacher_worker frozen 15 s", frozen("teacher_worker-1", 15), ("teaching", "correcting")),
]
RINGS = [all_along(f"rings {mood}", postman(mood)) for mood in ("doubling", "dropping", "late", "shuffling")]
PROTOCOL = [
    all_along(f"{name} {words}", call(name, how, share=0.5 if how == "twice" else 0.3, seconds=2.0))
    for name in ("claim", "beat", "complete")
    for words, how in HOWS.items()
]
# Calls that an undisturbed run does not make: something has to go wrong first.
REPORTS = [
    Fault(f"{name} {words}", all_of(call(name, how, seconds=2.0, count=2), harm), (stage,), ground="bad_roads", leaves=leaves)
    for name, harm, stage, leaves in (
        ("fail", to_trainers_child(signal.SIGKILL), "training", "task_retried"),
        ("stopped", told_to_stop("gpu_trainer-1"), "training", "task_handed_back"),
        ("stopped", told_to_stop("teacher_worker-1"), "teaching", "task_handed_back"),
    )
    for words, how in HOWS.items()
]
STORE = [
    all_along("store busy (503)", spoilt("store", Spoil("unavailable", share=0.15))),
    all_along("store away", spoilt("store", Spoil("cut_before", share=0.15))),
    all_along("store writes done, unheard", spoilt("store", Spoil("cut_after", "PUT", share=0.2))),
    all_along("store slow", spoilt("store", Spoil("slow", share=0.3, seconds=1.0))),
    on_disk("store's disk full", full("store"), EVERY[1:-1]),
    on_disk("workers' disk full", full("scratch"), ON_SCRATCH),
    on_disk("store's disk full for good", full("store", for_good=True), ("training",), whole=False),
]
TEACHER = [
    all_along("teacher 30 % throttled", spoilt("teacher", Spoil("unavailable", "POST", "/model/", 0.3))),
    Fault("teacher's answers malformed", teacher(malformed=0.3), ("all",), from_start=True),
    Fault("teacher silent for 60 s", teacher(latency=60.0), ("teaching", "correcting")),
    Fault("teacher denies access", teacher(deny=True), ("teaching", "correcting"), whole=False),
    all_along("teacher's answers cut", spoilt("teacher", Spoil("cut_after", "POST", "/model/", 0.3))),
]
WORKERS_AMISS = [
    Fault("two gpu_trainers", second_trainer("another"), ("training", "answering")),
    Fault("two gpu_trainers of one name", second_trainer(), ("training", "answering")),
    Fault("trainer's child hangs", to_trainers_child(signal.SIGSTOP), ON_THE_GPU, spec={"limits": {"stall_seconds": 60}}),
    all_along("beats never heard", call("beat", "cut_before")),
    Fault(
        "beats never heard, lease over",
        all_of(short_lease, call("beat", "cut_before"), spoilt("store", Spoil("slow", seconds=1.0))),
        ("teaching", "training"),
        ground="bad_roads",
        leaves="task_retried",
    ),
    Fault("workers' clocks 10 min ahead", clocks_ahead, ("all",), from_start=True),
]
FAULTS = [*KILLS, *TERMS, *SERVERS, *RINGS, *PROTOCOL, *REPORTS, *STORE, *TEACHER, *WORKERS_AMISS]

# What every test run shows; `make faults` shows the rest too.
SMOKE = {
    ("gpu_trainer-1 killed", "training"),
    ("teacher_worker-1 killed", "teaching"),
    ("control killed", "training"),
    ("valkey flushed", "answering"),
}
