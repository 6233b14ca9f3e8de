"""Three classes, one table: what follows from each error."""

import pickle
import re
from pathlib import Path

import pytest

from reflux.errors import (
    POLICIES,
    CleanupProblem,
    ErrorClass,
    Failure,
    RefluxError,
    Retriable,
    Stopped,
    Terminal,
    failure,
    next_wait,
    unforeseen,
)

CLASSES = {ErrorClass.RETRIABLE: Retriable, ErrorClass.TERMINAL: Terminal, ErrorClass.CLEANUP: CleanupProblem}

WAITS = {
    "s3_throttled": [5, 15, 45],
    "s3_timeout": [10, 30, 90],
    "teacher_throttled": [5, 15, 45],
    "teacher_stream_error": [1, 2, 4, 8],
    "teacher_timeout": [1, 2, 4, 8],
    "worker_lost": [0, 0],
    "stalled": [0, 0],
    "disk_low": [0, 30, 90],
    "spot_interrupted": [30, 60, 120, 240, 480],
    "instance_lost": [30, 60, 120],
    "machine_silent": [30],
    "no_capacity": [30, 60, 120, 300, 600],
    "provider_not_ready": [30, 30, 30],
    "gpu_out_of_memory": [],
    "nan_loss": [],
    "cleanup_failed": [5, 15],
    "cleanup_overdue": [],
}

TERMINAL = """
access_denied no_such_bucket model_not_found invalid_spec nan_loss empty_dataset invalid_dataset gpu_missing stage_timeout
budget_exhausted quota_exceeded preflight_failed teaching_failed gpu_out_of_memory job_failed not_supported
machines_not_set container_failed image_missing network_missing provider_refused
jobs_not_allowed no_container_engine no_inputs results_not_stored
"""


@pytest.mark.parametrize(("code", "waits"), WAITS.items())
def test_waits_before_each_further_attempt(code: str, waits: list[float]) -> None:
    found = [next_wait(code, failures) for failures in range(1, len(waits) + 2)]
    assert found == [*waits, None]
    assert next_wait(code, 0) is None
    assert next_wait(code, 10_000) is None


@pytest.mark.parametrize("code", TERMINAL.split())
def test_what_ends_a_run_at_once(code: str) -> None:
    assert POLICIES[code].error_class == ErrorClass.TERMINAL
    assert next_wait(code, 1) is None


@pytest.mark.parametrize("code", POLICIES)
def test_every_code_has_a_class_and_says_what_to_do(code: str) -> None:
    policy = POLICIES[code]
    assert re.fullmatch(r"[a-z0-9_]+", code)
    assert re.fullmatch(r"[A-Z].*\.", policy.hint), policy.hint
    assert len(policy.hint) > 20
    assert all(wait >= 0 for wait in policy.waits)
    assert policy.waits or policy.error_class != ErrorClass.RETRIABLE, "a retriable error is tried again"
    assert not policy.waits or policy.error_class != ErrorClass.TERMINAL, "a terminal one never"
    assert policy.error_class == ErrorClass.RETRIABLE or not policy.forgiven_by_progress


def test_progress_forgives_what_is_not_the_works_own_fault() -> None:
    forgiven = {code for code, policy in POLICIES.items() if policy.forgiven_by_progress}
    assert forgiven == {"worker_lost", "stalled", "handed_back"}


@pytest.mark.parametrize("code", POLICIES)
def test_errors_cross_a_process_border_whole(code: str) -> None:
    error = CLASSES[POLICIES[code].error_class](code, "What happened", "Do this.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.code, copy.message, copy.hint) == (code, "What happened", "Do this.")
    assert str(copy) == f"{code}: What happened"


def test_a_stop_crosses_a_process_border() -> None:
    assert pickle.loads(pickle.dumps(Stopped("pause"))).why == "pause"
    assert not isinstance(Stopped("pause"), RefluxError)


@pytest.mark.parametrize("code", POLICIES)
def test_an_error_becomes_a_failure_with_all_that_a_user_must_know(code: str) -> None:
    made = RefluxError(code, "What happened").failure(log="logs/x")
    assert made == Failure(
        code=code, message="What happened", hint=POLICIES[code].hint, error_class=POLICIES[code].error_class, log="logs/x"
    )
    assert made == failure(code, "What happened", log="logs/x")
    assert Failure.model_validate_json(made.model_dump_json()) == made
    assert str(made) == f"{code}: What happened"


def test_a_full_disk_is_no_defect() -> None:
    with pytest.raises(OSError, match="No space left") as full:
        Path("/dev/full").write_text("something")
    for error in (full.value, RuntimeError(f"some library: {full.value}")):
        assert (unforeseen(error).code, unforeseen(error).error_class) == ("disk_low", ErrorClass.RETRIABLE)
    assert unforeseen(ValueError("x")).message == "ValueError: x"
    assert unforeseen(ValueError("x"), log="logs/x").log == "logs/x"


def test_a_hint_of_its_own_goes_before_the_tables() -> None:
    assert failure("access_denied", "m", "Ask Ada.").hint == Terminal("access_denied", "m", "Ask Ada.").hint == "Ask Ada."


@pytest.mark.parametrize(("kind", "code"), [(Retriable, "nan_loss"), (Terminal, "s3_timeout"), (CleanupProblem, "internal")])
def test_an_error_cannot_be_raised_under_another_class(kind: type[RefluxError], code: str) -> None:
    with pytest.raises(ValueError, match=f"{code} is "):
        kind(code, "m")


def test_a_code_that_is_not_in_the_table_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        Terminal("no_such_code", "m")
