"""Errors: three classes, one policy table.

    RefluxError               code, message, hint
    ├── Retriable             may succeed when tried again; waits by the table
    ├── Terminal              ends the run, through cleanup
    ├── CleanupProblem        written down, retried by the sweep, never fails a run
    └── Stopped               not an error: the work was asked to stop, and saved

The class is given where the error is detected; what follows from it stands in POLICIES.
"""

import errno
import os
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class ErrorClass(StrEnum):
    RETRIABLE = "retriable"
    TERMINAL = "terminal"
    CLEANUP = "cleanup"


@dataclass(frozen=True)
class Policy:
    """What follows from an error. `waits` are seconds before each further attempt of the task.

    `of_machine`: the run's own machine is of no use; the waits are those before each further machine.
    """

    error_class: ErrorClass
    waits: tuple[float, ...] = ()
    hint: str = ""
    forgiven_by_progress: bool = False
    of_machine: bool = False


def _retriable(*waits: float, hint: str, forgiven_by_progress: bool = False) -> Policy:
    return Policy(ErrorClass.RETRIABLE, waits, hint, forgiven_by_progress)


def _machine(*waits: float, hint: str) -> Policy:
    return Policy(ErrorClass.RETRIABLE, waits, hint, of_machine=True)


def _terminal(hint: str) -> Policy:
    return Policy(ErrorClass.TERMINAL, (), hint)


def _cleanup(*waits: float, hint: str) -> Policy:
    return Policy(ErrorClass.CLEANUP, waits, hint)


POLICIES: dict[str, Policy] = {
    # Object store
    "s3_throttled": _retriable(5, 15, 45, hint="The object store asked for fewer requests. If it lasts, raise its quota."),
    "s3_timeout": _retriable(10, 30, 90, hint="Check the network road from the workers to the object store."),
    # Teacher. Single prompts are retried inside the task (services/teacher_worker/teacher.py); these are for whole tasks.
    "teacher_throttled": _retriable(5, 15, 45, hint="Lower teacher.concurrency, or ask the provider for a higher quota."),
    "teacher_stream_error": _retriable(1, 2, 4, 8, hint="The teacher's answer broke off. Look at the provider's status page."),
    "teacher_timeout": _retriable(1, 2, 4, 8, hint="The teacher did not answer in time. Raise teacher.timeout_seconds."),
    "teacher_unreachable": _retriable(
        1, 2, 4, hint="Check teacher.endpoint_url, the region, and the network road from the teacher workers."
    ),
    # Workers
    "worker_lost": _retriable(
        0, 0, hint="The worker went silent. Look at its log; its supervisor should start it again.", forgiven_by_progress=True
    ),
    "stalled": _retriable(
        0, 0, hint="The work made no progress within the phase's deadline. Look at the worker's log.", forgiven_by_progress=True
    ),
    "handed_back": _retriable(
        *(0.0,) * 100, hint="The worker was told to shut down, and gave the task back.", forgiven_by_progress=True
    ),
    "internal": _retriable(5, 15, hint="A defect in Reflux or a library. The worker's log has the traceback; please report it."),
    "disk_low": _retriable(0, 30, 90, hint="Free disk space on the worker, or lower limits.min_disk_gb."),
    "spot_interrupted": _machine(
        30, 60, 120, 240, 480, hint="Spot machines are taken too often there. Set compute.spot: false, or choose another type."
    ),
    "instance_lost": _machine(30, 60, 120, hint="Look at the reason, and who else may end machines in this account."),
    "machine_silent": _machine(
        30, hint="Look at its console output: it must be able to pull the image, and to reach the API and the store."
    ),
    "no_capacity": _machine(
        30, 60, 120, 300, 600, hint="No such machine is free there. Choose another type or subnet, or set compute.spot: false."
    ),
    "provider_not_ready": _retriable(30, 30, 30, hint="The provider's resource was not ready. Look at its console."),
    "provider_throttled": _retriable(5, 15, 45, hint="The provider asked for fewer calls. If it lasts, ask for a higher rate."),
    "gpu_out_of_memory": _terminal("Choose a smaller student, a shorter training.max_length, or student.quantization: nf4."),
    "prompt_too_long": _terminal("Shorten the prompt, or ask for a shorter answer by max_tokens."),
    # Terminal
    "access_denied": _terminal("Give the workers' credentials the right that the message names, then start the run again."),
    "no_credentials": _terminal("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or BEDROCK_API_KEY) for the teacher workers."),
    "no_such_bucket": _terminal("Check the bucket's name and region in data.sources and export."),
    "role_not_found": _terminal("Create the IAM role, or correct its ARN in the spec."),
    "model_not_found": _terminal("Check student.model and student.revision; a gated model also needs HF_TOKEN."),
    "invalid_spec": _terminal("Correct the fields that are named, and submit again."),
    "preflight_failed": _terminal("Correct what the failed checks name, then start the run again."),
    "nan_loss": _terminal("Lower training.learning_rate, and look at the rows of the last batch that the log names."),
    "empty_dataset": _terminal("Verify the data paths: data.sources must name folders or prefixes that hold C or C++ files."),
    "invalid_dataset": _terminal("Each row needs `messages` with a user and an assistant turn; the message names the line."),
    "teaching_failed": _terminal("The teacher answered none of the prompts. Set teaching.required: false to go on without it."),
    "gpu_missing": _terminal("Start a gpu_trainer worker, or set student.device: cpu for a small student."),
    "stage_timeout": _terminal("Raise the limit that is named, or use a smaller dataset. What was trained so far is exported."),
    "budget_exhausted": _terminal("Raise limits.max_teacher_cost_usd. What was trained so far is exported."),
    "machines_not_set": _terminal("Let the teacher workers' REFLUX_MACHINES name a YAML file; docs/machines.md shows one."),
    "container_failed": _terminal("Check the image and its tag: its worker must start, and reach the API and the store."),
    "image_missing": _terminal("Correct compute.image, and see that this account and region have it."),
    "network_missing": _terminal("Correct compute.subnet_id and compute.security_group_ids: one VPC in compute.region has both."),
    "provider_refused": _terminal("Correct what the provider names, in the section compute of the spec."),
    "quota_exceeded": _terminal("Ask the provider for a higher quota, or choose another instance type."),
    "job_failed": _terminal("The command ended with an error. Its log is among the run's artifacts."),
    "jobs_not_allowed": _terminal(
        "Set REFLUX_JOBS=1 for the gpu_trainers, if whoever may start runs may run commands there too."
    ),
    "no_container_engine": _terminal("Install Docker or Podman where the gpu_trainers run, or leave job.container out."),
    "no_inputs": _terminal("Correct job.code_uri or job.inputs_uri: each names a folder or a prefix with files below it."),
    "results_not_stored": _terminal("Copy the results from the place that the message names, then correct what refuses them."),
    "not_supported": _terminal("This deployment has no worker for what the spec asks for."),
    # Cleanup
    "cleanup_failed": _cleanup(5, 15, hint="Delete the resource by hand, or run `reflux verify-cleanup`."),
    "cleanup_overdue": _cleanup(hint="No worker could clean up in time. Run `reflux verify-cleanup` once one is alive."),
}


class Failure(BaseModel):
    """An error as it crosses a process border: everything a user must know about it."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    hint: str = ""
    error_class: ErrorClass
    log: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RefluxError(Exception):
    """One sentence of what happened, under a code of POLICIES. Picklable."""

    expected_class: ErrorClass | None = None

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        policy = POLICIES[code]
        if self.expected_class and policy.error_class != self.expected_class:
            raise ValueError(f"{code} is {policy.error_class}, raised as {type(self).__name__}")
        self.code = code
        self.message = message
        self.hint = hint or policy.hint

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def failure(self, log: str = "") -> Failure:
        return failure(self.code, self.message, self.hint, log)


class Retriable(RefluxError):
    expected_class = ErrorClass.RETRIABLE


class Terminal(RefluxError):
    expected_class = ErrorClass.TERMINAL


class CleanupProblem(RefluxError):
    expected_class = ErrorClass.CLEANUP


class Stopped(Exception):
    """The work in hand was asked to stop; what it finished is saved. `why` is the answer to the beat."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def failure(code: str, message: str, hint: str = "", log: str = "") -> Failure:
    policy = POLICIES[code]
    return Failure(code=code, message=message, hint=hint or policy.hint, error_class=policy.error_class, log=log)


def unforeseen(error: Exception, log: str = "") -> Failure:
    """What no handler has foreseen: a full disk, whichever library met it, or a defect."""
    if os.strerror(errno.ENOSPC) in str(error):
        return failure("disk_low", f"No space is left on the worker's disk: {error}"[:500], log=log)
    return failure("internal", f"{type(error).__name__}: {error}"[:500], log=log)


def next_wait(code: str, failures: int) -> float | None:
    """Seconds until the next attempt after `failures` failures of a task (1 = the first), or None: give up."""
    waits = POLICIES.get(code, POLICIES["internal"]).waits  # a worker may be newer than the API
    return waits[failures - 1] if 0 < failures <= len(waits) else None
