"""docs/states.md has the tables that the code follows. On a difference, put the one that is printed there."""

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


def test_the_page_has_every_status_and_what_others_call_it() -> None:
    assert set(ELSEWHERE) == set(CANONICAL) == {stage.value for stage in Stage}
    assert names_table() in PAGE
    for stage in Stage:
        assert f"`{stage.value}`" in PAGE.split("## Names")[0]


def names_table() -> str:
    lines = ["| canonical | Reflux | elsewhere |", "|---|---|---|"]
    lines += [f"| `{CANONICAL[stage.value]}` | `{stage.value}` | {ELSEWHERE[stage.value]} |" for stage in Stage]
    return "\n".join(
        [*lines, "| orphaned | `health: orphaned` | ORPHANED |", "| killed by its user | `aborting`, then `aborted` | KILLED |"]
    )
