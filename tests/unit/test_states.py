"""docs/states.md has the tables that the code follows. On a difference, put the one that is printed there."""

from reflux.errors import POLICIES, Policy
from reflux.stages import Stage
from services.api.projection import CANONICAL
from tests.environment import ROOT

PAGE = (ROOT / "docs" / "states.md").read_text(encoding="utf-8") if (ROOT / "docs" / "states.md").exists() else ""

# What the dashboard of the first fine-tuning service, and its notebook, say.
ELSEWHERE = {
    "queued": "IDLE, Pending",
    "validating": "INITIALIZING, Starting",
    "provisioning": "INITIALIZING, Starting",
    "preparing": "DATA_SYNC, Downloading",
    "teaching": "RUNNING, TeacherGeneration",
    "training": "RUNNING, Training",
    "refining": "RUNNING, IterativeDistillation",
    "evaluating": "RUNNING",
    "exporting": "RESULTS_SYNC, Uploading",
    "cleaning_up": "CLEANUP, Stopping",
    "succeeded": "FINISHED, Completed",
    "failed": "FAILED, Failed",
    "aborted": "FAILED, Stopped",
}


def test_the_page_has_the_policies_of_the_code() -> None:
    assert errors_table() in PAGE


def test_the_page_has_every_status_and_what_others_call_it() -> None:
    assert set(ELSEWHERE) == set(CANONICAL) == {stage.value for stage in Stage}
    assert names_table() in PAGE
    for stage in Stage:
        assert f"`{stage.value}`" in PAGE.split("## Names")[0]


def errors_table() -> str:
    lines = ["| code | class | waits, s | what to do |", "|---|---|---|---|"]
    lines += [
        f"| `{code}` | {policy.error_class.value} | {_waits(policy)} | {policy.hint} |" for code, policy in POLICIES.items()
    ]
    return "\n".join(lines)


def names_table() -> str:
    lines = ["| canonical | Reflux | elsewhere |", "|---|---|---|"]
    lines += [f"| `{CANONICAL[stage.value]}` | `{stage.value}` | {ELSEWHERE[stage.value]} |" for stage in Stage]
    return "\n".join(
        [*lines, "| orphaned | `health: orphaned` | ORPHANED |", "| killed by its user | `aborting`, then `aborted` | KILLED |"]
    )


def _waits(policy: Policy) -> str:
    if policy.forgiven_by_progress:
        return "at once; given up after 3 attempts without progress"
    waits = [f"{wait:g}" if wait else "at once" for wait in policy.waits]
    return f"{waits[0]}, {len(waits)} times" if len(waits) > 4 else ", ".join(waits)
