"""The results of a run, in its own folder and at every target of its spec, with a model card that is honest."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from reflux.artifacts import Artifacts, run_folder
from reflux.commands import Deliver
from reflux.errors import RefluxError, Terminal
from reflux.events import ResultsDelivered
from reflux.records import Example
from reflux.secret import secret
from reflux.spec import RunSpec
from reflux.summary import Summary
from reflux.task import Task
from services.teacher_worker.report import verdict_of


def deliver(task: Task) -> ResultsDelivered:
    """Copy the exported files. Terminal only if there are none; a target that fails is a warning."""
    command = task.command
    assert isinstance(command, Deliver)
    began = time.monotonic()
    export, warnings = task.spec.export, list[str]()
    folders = (("output", export.output_uri), ("data", export.data_uri), ("job's outputs", task.spec.job.outputs_uri))
    with tempfile.TemporaryDirectory(prefix="reflux-deliver-") as scratch:
        results = Path(scratch)
        _gather(task, command, results)
        own = run_folder(task.run_id)
        _upload(task.artifacts, results, own)
        targets = [f"{task.artifacts.url.rstrip('/')}/{own}"]
        task.progress(1, 5, "targets")
        for done, (name, uri) in enumerate(folders, 2):
            task.check()
            if uri:
                with _tried(name, uri, targets, warnings):
                    _upload(Artifacts(uri), results, task.run_id)
            task.progress(done, 5, "targets")
        if export.hub_repo:
            task.check()
            with _tried("hub", export.hub_repo, targets, warnings):
                _push(export.hub_repo, results / "adapter")
    return ResultsDelivered(key=command.key, seconds=time.monotonic() - began, warnings=tuple(warnings), targets=tuple(targets))


def _gather(task: Task, command: Deliver, results: Path) -> None:
    """Fill `results` with adapter/, perhaps merged/ (or a job's outputs/), the model card and the summary."""
    try:
        local = task.artifacts.download(command.model_path, results / "adapter")
    except FileNotFoundError as error:
        message = f"There is nothing to deliver at {command.model_path}"
        raise Terminal("job_failed", message, "Look at the log of the export.") from error
    task.check()
    if command.summary.recipe == "job":
        local.rename(results / "outputs")
    elif (local / "adapter").is_dir():  # an export holds its parts in folders of their own
        exported = local.rename(results / "exported")
        for part in exported.iterdir():
            part.rename(results / part.name)
        exported.rmdir()
    if (results / "adapter").is_dir():
        card = model_card(task.spec, command.summary, licences(task.artifacts, command.train_path))
        (results / "adapter" / "README.md").write_text(card, encoding="utf-8")
    (results / "training_summary.json").write_text(command.summary.model_dump_json(indent=2) + "\n", encoding="utf-8")


def model_card(spec: RunSpec, summary: Summary, sources: Counter[str]) -> str:
    """README.md of the adapter: what it was made of, how well it does, and what is not known."""
    base = summary.student
    on_hub = not base.startswith(("package:", "/", ".", "~"))
    front = ["---", *([f"base_model: {base}"] if on_hub else ()), "library_name: peft", "tags:", "- code", "- reflux", "---"]
    parts = [
        "\n".join(front),
        f"# {summary.name}",
        f"A LoRA adapter for `{base}`{f' at revision `{spec.student.revision}`' if spec.student.revision else ''}, "
        f"made by Reflux in run `{summary.run_id}`" + (", which ended before it was done." if summary.partial else "."),
        "## How well it does",
        verdict_of(summary),
        "The scores are those of a compiler and of rules (syntax, protocol words, safety, style). They do not show that "
        "the code does what was asked: review and test it before use, and never use it unreviewed in a vehicle.",
        "## How it was made",
        "\n".join(f"- {fact}" for fact in _making(spec, summary)),
        "## Data and licences",
        _lineage(sources),
    ]
    if summary.teacher:
        parts.append(_teacher(spec, summary))
    return "\n\n".join(parts) + "\n"


def licences(artifacts: Artifacts, train_path: str | None) -> Counter[str]:
    """Training rows by the licence that their source file states. Empty where they are not there any more."""
    rows = artifacts.read_rows(train_path, Example) if train_path else ()
    try:
        return Counter(row.lineage.licence or ("uploaded" if row.lineage.origin == "upload" else "not stated") for row in rows)
    except FileNotFoundError:
        return Counter()


def _making(spec: RunSpec, summary: Summary) -> Iterator[str]:
    if summary.counts:
        yield "Data: " + ", ".join(f"{count} {name}" for name, count in summary.counts.items())
    rank = f", r {spec.lora.r}, alpha {spec.lora.alpha}" if spec.student.method != "full" else ""
    yield f"Method: {spec.student.method}{rank}, learning rate {spec.training.learning_rate:g}"
    if summary.epochs:
        best = next((e for e in summary.epochs if e.epoch == summary.best_epoch), summary.epochs[-1])
        yield f"Epochs: {len(summary.epochs)}; this is the adapter of epoch {best.epoch}, trained on {best.rows} rows"
        yield f"Corrections admitted: {sum(e.admitted for e in summary.epochs)} of {sum(e.requested for e in summary.epochs)}"
    yield f"Ended because: {summary.reason}"


def _lineage(sources: Counter[str]) -> str:
    if not sources:
        return "Nothing is known about the training rows."
    lines = ["| licence stated in the source | training rows |", "|---|---|"]
    return "\n".join(lines + [f"| {licence} | {count} |" for licence, count in sources.most_common()])


def _teacher(spec: RunSpec, summary: Summary) -> str:
    answers = summary.usage.calls + summary.usage.reused
    terms = (
        "Whoever started the run has stated that its terms allow training on its answers."
        if spec.teacher.terms_acknowledged
        else "Whether the terms of whoever wrote them allow this use is for you to check."
    )
    when = datetime.now(UTC).date().isoformat()
    return (
        f"Answers and corrections were written by the teacher `{summary.teacher}` ({spec.teacher.provider}, {answers} answers, "
        f"up to {when}); each training row's lineage names its teacher and date. {terms}"
    )


@contextmanager
def _tried(name: str, where: str, targets: list[str], warnings: list[str]) -> Iterator[None]:
    try:
        yield
        targets.append(where)
    except (RefluxError, OSError) as error:
        warnings.append(f"Nothing was saved at the {name} target {where}: {error}. Saved so far: {', '.join(targets)}")


def _upload(store: Artifacts, folder: Path, prefix: str) -> None:
    for name in sorted(folder.iterdir()):
        if name.is_dir():
            store.upload(name, f"{prefix}/{name.name}")
        else:
            store.put(f"{prefix}/{name.name}", name.read_bytes())


def _push(repo: str, folder: Path) -> None:
    """To the hub, private. OSError if there is no token, or the hub refuses."""
    token = secret("HF_TOKEN")
    if not token:
        raise OSError("HF_TOKEN is not set for the teacher workers")
    from httpx import HTTPError
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    except (HTTPError, ValueError) as error:
        raise OSError(str(error)) from error
