"""How the dashboard says what Postgres says: a word, a colour and an icon for each status, stage and health; times and sums."""

from dataclasses import dataclass
from datetime import datetime

from reflux.stages import Stage


@dataclass(frozen=True)
class Look:
    """`tone` is a class of dashboard.css: calm, busy, waiting, good, bad or off. `icon` is a Material icon's name."""

    word: str
    tone: str
    icon: str
    told: str = ""


STATUSES: dict[str, Look] = {
    "queued": Look("Waiting", "waiting", "hourglass_empty", "Waits for its turn: so many runs are at work already."),
    "validating": Look("Checking", "busy", "fact_check", "Checks everything that can be checked before money is spent."),
    "provisioning": Look("Getting a machine", "busy", "dns", "A machine is made for this run alone."),
    "preparing": Look("Preparing", "busy", "folder_open", "The dataset is made out of the sources."),
    "teaching": Look("Teaching", "busy", "school", "The teacher answers the practice prompts."),
    "training": Look("Training", "busy", "model_training", "The student is fine-tuned."),
    "refining": Look("Refining", "busy", "autorenew", "The student answers, the evaluator scores, the teacher corrects."),
    "evaluating": Look("Comparing", "busy", "balance", "Base model and best student answer the test prompts."),
    "exporting": Look("Exporting", "busy", "upload", "Model, report and summary go to every target."),
    "cleaning_up": Look("Cleaning up", "busy", "cleaning_services", "What the run made outside goes; reports are written."),
    "paused": Look("Paused", "waiting", "pause_circle", "The work in hand is saved, and the GPU is free."),
    "aborting": Look("Aborting", "waiting", "cancel", "Asked to end. Within a minute it has saved its work and cleaned up."),
    "succeeded": Look("Succeeded", "good", "check_circle", "It is over, and the student is trained."),
    "failed": Look("Failed", "bad", "error", "It is over, and did not do what was asked."),
    "aborted": Look("Aborted", "off", "cancel", "It was ended by its user."),
}

HEALTH: dict[str, Look] = {
    "ok": Look("Healthy", "calm", "favorite_border", "Every task has a worker, or waits for its turn."),
    "recovering": Look("Recovering", "waiting", "healing", "A task is tried again, or another worker has taken it over."),
    "orphaned": Look(
        "Worker lost", "bad", "link_off", "A task's worker is silent. The task waits for another, and loses nothing."
    ),
}

REVIEW = Look("Waits for you", "waiting", "rate_review", "Nothing goes on until somebody has reviewed its corrections.")

RECIPES = {"distill": "Distil a teacher", "finetune": "Fine-tune on rows", "job": "Run a command"}

WORKERS = {"teacher_worker": "Teacher worker", "evaluator": "Evaluator", "gpu_trainer": "GPU trainer"}

TASKS = {
    "preflight": "checks what it can reach",
    "provision": "gets a machine",
    "prepare": "makes the dataset",
    "teach": "asks the teacher",
    "train": "trains the student",
    "run_job": "runs the command",
    "generate": "lets the student answer",
    "score": "scores answers",
    "correct": "asks the teacher for corrections",
    "judge": "judges corrections",
    "review": "waits for a person",
    "compare": "compares base and student",
    "export_model": "exports the model",
    "deliver": "delivers to the targets",
    "clean_up": "cleans up",
}


def status(name: str) -> Look:
    return STATUSES.get(name) or Look(name.replace("_", " ").capitalize(), "calm", "circle")


def stage(name: str) -> Look:
    """Stages are named as statuses are."""
    return status(name)


def health(name: str) -> Look:
    return HEALTH.get(name) or Look(name.capitalize(), "calm", "help_outline")


def over(status_name: str) -> bool:
    return status_name in {stage.value for stage in Stage if stage.terminal}


def span(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 4 h`; a dash for what is not known."""
    if seconds is None:
        return "—"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(then: datetime | None, now: datetime) -> str:
    if then is None:
        return "—"
    seconds = (now - then).total_seconds()
    return "just now" if seconds < 5 else f"{span(seconds)} ago"


def moment(at: datetime | None) -> str:
    """In UTC, as everything that Reflux writes down."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "—"


def dollars(usd: float | None) -> str:
    """A dash for what has no known price."""
    if usd is None:
        return "—"
    return f"${usd:,.2f}" if usd >= 0.995 or usd == 0 else f"${usd:.3f}"


def score(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"


def count(number: float | None) -> str:
    return "—" if number is None else f"{number:,.0f}"
